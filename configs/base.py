"""Every key there is (docs/config.md). Other configs are short deltas of this one.

As it stands it is the "base" model of about 356M parameters with DHC x 4: 24 layers, 1024 wide,
GELU, learned positions, vocabulary 50257. Change a key on the command line with
--config.group.key=value.
"""

from ml_collections import config_dict

from hc_jax.config_keys import declared_config


def get_config() -> config_dict.ConfigDict:
  """All keys, with the defaults of the classes that declare them, and this model's own numbers."""
  c = declared_config()
  c.model.d_model, c.model.num_layers, c.model.num_heads = 1024, 24, 16
  c.model.vocab_size = 50257
  c.model.positions = "learned"
  c.model.dtype = "bfloat16"
  # A sublayer moves 73 C in a loop and 121 C in a scan (docs/performance.md).
  c.model.scan = False
  return c.lock()  # so that a typo in a delta cannot add a key
