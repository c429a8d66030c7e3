"""AltUp (arXiv 2301.13310), two blocks taken in turn."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "altup"
  return c
