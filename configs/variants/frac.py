"""Dynamic Frac-Connections (arXiv 2503.14125), DFC x 4: the width in four fractions."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "frac"
  return c
