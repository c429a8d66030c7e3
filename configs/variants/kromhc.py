"""KromHC (arXiv 2601.21579) x 4: a Kronecker product of 2 x 2 mixes."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "kromhc"
  return c
