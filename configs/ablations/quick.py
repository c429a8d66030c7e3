"""The default ablation: does HC help a very small model, and at what cost?

Command: hc-jax ablate configs/ablations/quick.py
"""

from hc_jax.ablate import Sweep
from hc_jax.configs import quickstart

HC = {"model.connection.name": "hc"}


def get_sweep():
  """The residual network, SHC x 4, DHC x 2 and DHC x 4, each with four seeds."""
  c = quickstart.get_config()
  c.model.d_model, c.model.num_layers, c.model.num_heads = 64, 4, 4
  c.model.init_std = 0.08
  c.train.batch_size, c.data.length = 4, 128
  c.train.num_steps, c.train.eval_every, c.train.eval_batches = 400, 50, 20
  c.train.log_every, c.train.checkpoint_every = 1, 50
  return Sweep(
    title="HC in a very small language model",
    base=c,
    arms={
      "residual": {"model.connection.name": "residual"},
      "shc4": HC | {"model.connection.num_streams": 4, "model.connection.dynamic": False},
      "dhc2": HC | {"model.connection.num_streams": 2},
      "dhc4": HC | {"model.connection.num_streams": 4},
    },
    seeds=(0, 1, 2, 3),
  )
