"""x0-lambdas (nanochat): every block begins with a sum of the state and the embedding."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "x0_lambdas"
  return c
