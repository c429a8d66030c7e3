"""The language model with `x + y` written out; our residual connection must not be slower."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from hc_jax import models
from hc_jax.models.layers import Embed


class DirectLM(nn.Module):
  """A Pre-Norm model with rotary positions and tied embeddings, made of the library's own parts.

  Its layers are unrolled. Compare it with a residual model with `scan=False` and `remat="none"`.
  """

  vocab_size: int
  d_model: int
  num_layers: int
  num_heads: int
  d_ff: int
  activation: str = "gelu"
  init_std: float = 0.02
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens, *, segment_ids=None, deterministic=True):
    del segment_ids, deterministic
    options = {"init_std": self.init_std, "dtype": self.dtype}

    def norm(x):
      return models.Norm("layernorm", dtype=self.dtype)(x)

    embed = Embed(self.vocab_size, self.d_model, **options)
    context = models.TokenContext(positions=jnp.arange(tokens.shape[-1], dtype=jnp.int32)[None])
    x = embed(tokens)
    for _ in range(self.num_layers):
      x = x + models.Attention(self.num_heads, **options)(norm(x), context)
      feed_forward = models.FeedForward(self.d_ff, activation=self.activation, **options)
      x = x + feed_forward(norm(x), context)
    return embed.attend(norm(x))
