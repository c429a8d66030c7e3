"""Manifold-constrained hyper-connections (arXiv 2512.24880), mHC x 4."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "mhc"
  return c
