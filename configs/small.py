"""About 125M parameters: 12 layers, 768 wide, GELU, learned positions, vocabulary 50257."""

from hc_jax.configs import base


def get_config():
  """The delta."""
  c = base.get_config()
  c.model.d_model, c.model.num_layers, c.model.num_heads = 768, 12, 12
  c.optim.learning_rate = 6e-4
  return c
