"""Beside other ways to widen or double the residual path: AltUp x 2 and ResiDual.

The methods of Table 4 of arXiv 2409.19606, where both lose to the residual network they start from.
ResiDual is Post-Norm with a second path, and no connection: its blocks begin alike, bit for bit.

Command: hc-jax ablate configs/ablations/related_work.py
"""

from configs import quickstart
from hc_jax.ablate import Sweep


def get_sweep():
  """Five arms."""
  c = quickstart.get_config()
  c.train.num_steps = 1000
  return Sweep(
    title="Hyper-connections and related work",
    base=c,
    arms={
      "residual": {"model.connection.name": "residual"},
      "residual-dual": {"model.connection.name": "residual", "model.block": "dual"},
      "altup2": {"model.connection.name": "altup", "model.connection.num_streams": 2},
      "dhc2": {"model.connection.name": "hc", "model.connection.num_streams": 2},
      "dhc4": {"model.connection.name": "hc", "model.connection.num_streams": 4},
    },
  )
