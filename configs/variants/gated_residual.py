"""Gated residual (Qwen3.8-Next) x 4: a read with a weight per channel, in the place of norms."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "gated_residual"
  return c
