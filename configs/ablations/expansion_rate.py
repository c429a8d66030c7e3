"""How many streams? The residual network and DHC x 1, 2, 4, 8, with and without tanh.

The arms of Table 1 of arXiv 2409.19606, which finds x 1 worse than the residual network, x 4
best for its cost, and little in tanh, for OLMo-1B after 500 billion tokens. The model here is
small; another is `--config.model...`.

Command: hc-jax ablate configs/ablations/expansion_rate.py
"""

from hc_jax.ablate import Sweep
from hc_jax.configs import quickstart


def get_sweep():
  """Nine arms."""
  c = quickstart.get_config()
  c.train.num_steps = 1000
  arms = {"residual": {"model.connection.name": "residual"}}
  for tanh in (True, False):
    for n in (1, 2, 4, 8):
      arms[f"dhc{n}" + "-no-tanh" * (not tanh)] = {
        "model.connection.name": "hc",
        "model.connection.num_streams": n,
        "model.connection.tanh": tanh,
      }
  return Sweep(title="Expansion rate", base=c, arms=arms)
