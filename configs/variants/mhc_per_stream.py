"""mHC of the PyTorch package hyper-connections, stream by stream, x 4."""

from hc_jax.configs import quickstart


def get_config():
  """The delta."""
  c = quickstart.get_config()
  c.model.connection.name = "mhc_per_stream"
  return c
