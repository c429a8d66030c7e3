"""Number of streams: the residual network and DHC x 1, 2, 4, 8, with and without tanh.

The arms are those of Table 1 of arXiv 2409.19606. There, for OLMo-1B after 500 billion tokens, x 1
is worse than the residual network, x 4 is best for its cost, and tanh matters little. The model
here is small; `--config.model...` changes it.

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
