"""Frozen parts: read and mix (the paper's width connection), or write (its depth connection).

The arms are those of Table 3 of arXiv 2409.19606: DHC x 4 with frozen read and mix, or with frozen
write, with and without tanh. In the paper, freezing read and mix costs most of the gain, and
freezing the write hardly any.

Command: hc-jax ablate configs/ablations/trainable_parts.py
"""

from hc_jax.ablate import Sweep
from hc_jax.configs import quickstart


def get_sweep():
  """Seven arms."""
  c = quickstart.get_config()
  c.train.num_steps = 1000
  arms = {"residual": {"model.connection.name": "residual"}}
  frozen = {"": {}, "-frozen-read-mix": {"train_read_mix": False}}
  frozen["-frozen-write"] = {"train_write": False}
  for tanh in (True, False):
    for ending, fields in frozen.items():
      fields = {"name": "hc", "num_streams": 4, "tanh": tanh, **fields}
      arms["dhc4" + ending + "-no-tanh" * (not tanh)] = {
        f"model.connection.{key}": value for key, value in fields.items()
      }
  return Sweep(title="Trainable parts of DHC x 4", base=c, arms=arms)
