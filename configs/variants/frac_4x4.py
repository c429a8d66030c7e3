"""Dynamic Frac-Connections (arXiv 2503.14125) with four streams of every fraction, 4 x 4."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "frac"
  c.model.connection.num_streams = 16
  return c
