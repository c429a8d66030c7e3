"""About 1B parameters: 32 layers, 1536 wide, GELU, learned positions, vocabulary 50257."""

from hc_jax.configs import base


def get_config():
  """The delta."""
  c = base.get_config()
  c.model.d_model, c.model.num_layers, c.model.num_heads = 1536, 32, 24
  c.model.scan = True  # a loop moves less, a scan compiles one layer instead of 32
  c.optim.learning_rate = 2e-4
  return c
