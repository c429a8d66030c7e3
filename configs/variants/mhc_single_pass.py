"""Single-pass mHC (DeepSeek-V4.1) x 4: each site is read by what the site before made."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "mhc_single_pass"
  return c
