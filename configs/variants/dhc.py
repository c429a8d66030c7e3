"""Dynamic hyper-connections (arXiv 2409.19606), DHC x 4: what quickstart trains."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "hc"
  return c
