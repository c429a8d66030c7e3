"""Identity HC (arXiv 2512.24880, an ablation): mHC x 4 that does not mix."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "identity"
  return c
