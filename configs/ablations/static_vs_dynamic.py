"""Is it enough to learn the weights, or must tokens have a say? SHC and DHC, x 2 and x 4.

The arms of Table 2 of arXiv 2409.19606, which finds static ones better than the residual network
and dynamic ones better still.

Command: hc-jax ablate configs/ablations/static_vs_dynamic.py
"""

from hc_jax.ablate import Sweep
from hc_jax.configs import quickstart


def get_sweep():
  """Five arms."""
  c = quickstart.get_config()
  c.train.num_steps = 1000
  arms = {"residual": {"model.connection.name": "residual"}}
  for n in (2, 4):
    for dynamic in (False, True):
      arms[f"{'dhc' if dynamic else 'shc'}{n}"] = {
        "model.connection.name": "hc",
        "model.connection.num_streams": n,
        "model.connection.dynamic": dynamic,
      }
  return Sweep(title="Static and dynamic hyper-connections", base=c, arms=arms)
