"""A hybrid stack: two residual blocks below two with DHC x 4, on the quickstart's text."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.layers = ((2, "residual"), (2, {"name": "hc", "num_streams": 4}))
  return c
