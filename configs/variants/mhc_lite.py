"""mHC-lite (arXiv 2601.05732) x 4: a weighted mean of permutations."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "mhc_lite"
  return c
