"""Dynamic generalised hyper-connections (arXiv 2511.11238), (m, n) = (2, 3): 1.5 times wider."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "ghc"
  return c
