"""Simplified AltUp (Qwen3.8-Next) x 4: outputs go to the streams in turn."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "altup_simplified"
  return c
