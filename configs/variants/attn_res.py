"""Attention residuals (arXiv 2603.15031), four sublayers to a slot."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "attn_res"
  c.model.connection.block_sites = 4
  return c
