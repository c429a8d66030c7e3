"""Orthogonal hyper-connections (arXiv 2609.02672): a rotation of four streams."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "ohc"
  return c
