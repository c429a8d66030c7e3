"""Static hyper-connections (arXiv 2409.19606), SHC x 4."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "hc"
  c.model.connection.dynamic = False
  return c
