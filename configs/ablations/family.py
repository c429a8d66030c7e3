"""The whole family: every variant in the table of connections, each with its defaults, and SHC.

mHC is there twice: starting near the residual network (`bias_init="identity"`, the default) and
from zeros ("uniform"). A variant of your own that --import registers joins them. Those that go
around whole blocks have them.

Command: hc-jax ablate configs/ablations/family.py
"""

from hc_jax.ablate import Sweep
from hc_jax.configs import quickstart
from hc_jax.connections import CONNECTIONS

NAMES = {"hc": "dhc4", "mhc": "mhc-identity"}


def get_sweep():
  """An arm for every connection, SHC x 4, and mHC with a uniform start."""
  c = quickstart.get_config()
  c.train.num_steps = 1000
  arms = {NAMES.get(name, name): {"model.connection.name": name} for name in CONNECTIONS}
  for name, cls in CONNECTIONS.items():
    if cls.branch_is_block:
      arms[name]["model.block"] = "whole"
  arms["shc4"] = {"model.connection.name": "hc", "model.connection.dynamic": False}
  arms["mhc-uniform"] = {
    "model.connection.name": "mhc",
    "model.connection.bias_init": "uniform",
  }
  return Sweep(title="The family of hyper-connections", base=c, arms=arms)
