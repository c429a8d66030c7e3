"""The Pre-Norm residual network: the baseline of every comparison."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "residual"
  return c
