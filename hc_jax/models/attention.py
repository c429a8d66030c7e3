"""Multi-head and grouped-query attention, with and without a KV cache."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes
from hc_jax.models.layers import Dtype, TokenContext, precision, rotary

VIEWS = 3  # queries, keys, values


class Attention(nn.Module):
  """Self-attention through `jax.nn.dot_product_attention`, without biases.

  With `context.decode`, keys and values are written into the `cache` collection, from entry
  `context.positions[0, 0]` on. Queries then see every entry up to their own position. The first
  call creates the cache, with `max_length` entries.

  Attributes:
    num_heads: number of query heads, a divisor of d.
    num_kv_heads: number of key and value heads (grouped-query attention), a divisor of num_heads;
      num_heads if None.
    causal: whether a token sees only itself and earlier tokens.
    rotary_theta: base of the rotary wavelengths; None has no rotary positions.
    qk_norm: factory of the norm of queries and keys, over each head's width; None has no norm.
    max_length: number of entries of the KV cache.
    init_std: standard deviation of initial kernels.
    output_init_scale: factor of `init_std` for the output projection.
    dtype: dtype of the matrix products and the result. The softmax is float32.
    num_views: number of inputs: 1, or 3, one each for queries, keys and values.
  """

  num_heads: int
  num_kv_heads: int | None = None
  causal: bool = True
  rotary_theta: float | None = 10000.0
  qk_norm: Callable[..., nn.Module] | None = None
  max_length: int = 2048
  init_std: float = 0.02
  output_init_scale: float = 1.0
  dtype: Dtype = jnp.float32
  num_views: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, context: TokenContext) -> jax.Array:
    """Returns the branch output `[B, L, d]`.

    Args:
      x: `[B, L, d]`; with three views `[B, L, 3, d]`.
      context: positions, mask and mode of the tokens.

    Raises:
      ValueError: if the input has another number of views, if the heads do not divide the width, or
        if decoding is not causal or has more tokens than the cache.
    """
    d, heads = x.shape[-1], self.num_heads
    kv_heads = self.num_kv_heads or heads
    check_heads(d, heads, kv_heads, self.rotary_theta is not None)
    width = d // heads
    of_query, of_key, of_value = self._views(x.astype(self.dtype))
    query = self._project("query_kernel", of_query, heads, width, axes.HEADS)
    key = self._project("key_kernel", of_key, kv_heads, width, axes.KV_HEADS)
    value = self._project("value_kernel", of_value, kv_heads, width, axes.KV_HEADS)
    if self.qk_norm:
      query = self.qk_norm(name="query_norm")(query)
      key = self.qk_norm(name="key_norm")(key)
    if self.rotary_theta is not None:
      query = rotary(query, context.positions, self.rotary_theta)
      key = rotary(key, context.positions, self.rotary_theta)

    mask, causal = context.mask, self.causal
    if context.decode:
      key, value, mask = self._append(key, value, context)
      causal = False
    # Set by a context, because jax.nn's function has no argument for the precision.
    with jax.default_matmul_precision("highest" if precision(self.dtype) else None):
      out = jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=causal)

    std = self.init_std * self.output_init_scale
    init = axes.partitioned(nn.initializers.normal(std), "heads", "head_dim", "embed")
    kernel = self.param("out_kernel", init, (heads, width, d), jnp.float32).astype(self.dtype)
    return jnp.einsum("blhk,hkd->bld", out, kernel, precision=precision(self.dtype))

  def _views(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the inputs of queries, keys and values, each `[B, L, d]`."""
    if self.num_views not in (1, VIEWS):
      raise ValueError(
        f"attention takes 1 view, or {VIEWS} for queries, keys and values; not "
        f"num_views={self.num_views}"
      )
    several = self.num_views > 1
    if x.ndim != 3 + several or (several and x.shape[2] != VIEWS):
      raise ValueError(
        f"attention with num_views={self.num_views} takes "
        f"{f'[B, L, {VIEWS}, d]' if several else '[B, L, d]'}, but got {x.shape}; give the "
        "attention and its connection the same num_views"
      )
    return tuple(x[:, :, i] for i in range(VIEWS)) if several else (x, x, x)

  def _project(self, name: str, x: jax.Array, heads: int, width: int, axis: str) -> jax.Array:
    rows = "heads" if axis == axes.HEADS else "kv_heads"
    init = axes.partitioned(nn.initializers.normal(self.init_std), "embed", rows, "head_dim")
    kernel = self.param(name, init, (x.shape[-1], heads, width), jnp.float32).astype(self.dtype)
    out = jnp.einsum("bld,dhk->blhk", x, kernel, precision=precision(self.dtype))
    return axes.constrain(out, (axes.BATCH, axes.LENGTH, axis, None))

  def _append(
    self, key: jax.Array, value: jax.Array, context: TokenContext
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Writes keys and values `[B, L, h, k]` into the cache; returns the whole cache and a mask."""
    if not self.causal:
      raise ValueError("decode needs causal=True: an encoder has no next token to decode")
    batch, length, heads, width = key.shape
    if length > self.max_length:
      raise ValueError(
        f"decode: {length} tokens do not fit a cache of max_length={self.max_length}; "
        "shorten the prompt or raise max_length"
      )
    shape = (batch, self.max_length, heads, width)
    keys = self.variable("cache", "key", jnp.zeros, shape, self.dtype)
    values = self.variable("cache", "value", jnp.zeros, shape, self.dtype)
    start = context.positions[0, 0]
    keys.value = jax.lax.dynamic_update_slice_in_dim(keys.value, key, start, axis=1)
    values.value = jax.lax.dynamic_update_slice_in_dim(values.value, value, start, axis=1)
    slots = jnp.arange(self.max_length)
    mask = slots[None, None, None, :] <= context.positions[:, None, :, None]
    mask = jnp.broadcast_to(mask, (batch, 1, length, self.max_length))
    return keys.value, values.value, mask


def check_heads(d: int, heads: int, kv_heads: int, rotary: bool = False) -> None:
  """Raises ValueError unless the heads divide the width, and key heads the query heads.

  With rotary positions the width of a head must be even, too.
  """
  if heads < 1 or d % heads:
    raise ValueError(
      f"d_model={d} is not divisible by num_heads={heads}: {d} / {heads} is not a whole number"
    )
  if kv_heads < 1 or heads % kv_heads:
    raise ValueError(f"num_heads={heads} is not divisible by num_kv_heads={kv_heads}")
  if rotary and (d // heads) % 2:
    raise ValueError(
      f"rotary positions need an even head width, but d_model / num_heads = {d // heads}; choose "
      "an even width or positions='learned'"
    )


def attention_mask(
  segment_ids: jax.Array | None, padding_mask: jax.Array | None
) -> jax.Array | None:
  """Returns a mask that is true where a query may see a key, bool `[B, 1, L, L]`, or None for all.

  A token always sees itself, so that no row of the softmax is empty.

  Args:
    segment_ids: int `[B, L]` or None; tokens see only their own segment.
    padding_mask: bool `[B, L]` or None, true for real tokens.
  """
  if segment_ids is None and padding_mask is None:
    return None
  length = (segment_ids if padding_mask is None else padding_mask).shape[-1]
  mask = jnp.ones((1, length, length), bool)
  if segment_ids is not None:
    mask = mask & (segment_ids[:, :, None] == segment_ids[:, None, :])
  if padding_mask is not None:
    mask = mask & padding_mask[:, None, :].astype(bool)
  mask = mask | jnp.eye(length, dtype=bool)[None]
  return mask[:, None]
