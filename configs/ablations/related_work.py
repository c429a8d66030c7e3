"""Next to another way to widen the residual path: AltUp x 2.

Of Table 4 of arXiv 2409.19606, where it loses to the residual network that it starts from. The
table's other method, ResiDual, is not a hyper-connection and is not part of this package.

Command: hc-jax ablate configs/ablations/related_work.py
"""

from hc_jax.ablate import Sweep
from hc_jax.configs import quickstart


def get_sweep():
  """Four arms."""
  c = quickstart.get_config()
  c.train.num_steps = 1000
  return Sweep(
    title="Hyper-connections and related work",
    base=c,
    arms={
      "residual": {"model.connection.name": "residual"},
      "altup2": {"model.connection.name": "altup", "model.connection.num_streams": 2},
      "dhc2": {"model.connection.name": "hc", "model.connection.num_streams": 2},
      "dhc4": {"model.connection.name": "hc", "model.connection.num_streams": 4},
    },
  )
