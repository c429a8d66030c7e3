"""OLMo-1B with DHC x 4, as in the paper (2409.19606 section 4): 1,176,764,416 + 394,048."""

from hc_jax.configs import base


def get_config():
  """The delta."""
  c = base.get_config()
  c.model.d_model, c.model.num_layers, c.model.num_heads = 2048, 16, 16
  c.model.d_ff = 8192
  c.model.activation = "swiglu"
  c.model.positions = "rotary"
  c.model.vocab_size = 50304
  c.model.output_init_scale = "sqrt_n"
  c.model.scan = True  # a loop moves less, a scan compiles one layer instead of all
  c.data.length = 2048
  c.optim.learning_rate = 4e-4
  c.train.batch_size = 2048
  return c
