"""A DHC x 4 language model on the Python standard library: minutes on two CPU cores.

Command: make quickstart
"""

from hc_jax.configs import base


def get_config():
  """The delta."""
  c = base.get_config()
  c.model.d_model, c.model.num_layers, c.model.num_heads = 128, 4, 4
  c.model.positions = "rotary"
  c.model.vocab_size = None
  c.model.dtype = "float32"
  c.model.scan = False
  c.model.remat = "none"
  c.model.init_std = 0.06  # about 1 / sqrt(d_model): so narrow a model learns slowly from 0.02
  c.data.length = 128
  c.optim.learning_rate = 4e-3
  c.optim.warmup_steps = 30
  c.train.num_steps = 200
  c.train.batch_size = 16
  c.train.eval_every = 50
  c.train.eval_batches = 10
  c.train.checkpoint_every = 100
  c.train.telemetry_every = 10
  return c
