"""OLMo-7B with DHC x 4, as in the paper (2409.19606 section 4.3): 6,888,095,744 + 1,574,528."""

from hc_jax.configs import olmo_1b


def get_config():
  """The delta."""
  c = olmo_1b.get_config()
  c.model.d_model, c.model.num_layers, c.model.num_heads = 4096, 32, 32
  c.model.d_ff = 11008
  c.model.tie_embeddings = False
  c.optim.learning_rate = 3e-4
  return c
