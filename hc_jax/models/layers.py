"""Parts of a transformer besides attention: norm, embeddings, rotary positions, feed-forward."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes, ops

Dtype = jax.typing.DTypeLike
ACTIVATIONS = ("gelu", "swiglu")


@flax.struct.dataclass
class TokenContext:
  """Information about the tokens of one forward pass, for every branch.

  Attributes:
    positions: position of each token, int32 `[B, L]` or `[1, L]`.
    mask: bool `[B, 1, L, L]` or None, true where a query (third axis) may see a key. A causal
      attention applies its causal mask too.
    deterministic: whether dropout is off.
    decode: whether attention appends to the KV cache and attends to all of its tokens.
  """

  positions: jax.Array
  mask: jax.Array | None = None
  deterministic: bool = flax.struct.field(pytree_node=False, default=True)
  decode: bool = flax.struct.field(pytree_node=False, default=False)


def precision(dtype: Dtype) -> jax.lax.Precision | None:
  """Returns the precision of products: for float32 the highest, else None.

  Without it accelerators would round float32 operands to bfloat16 or TF32.
  """
  return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


class Norm(nn.Module):
  """LayerNorm or RMSNorm over the last axis; statistics in float32, result in `dtype`.

  Attributes:
    kind: "layernorm" or "rmsnorm"; another word raises ValueError when called.
    params: whether there is a learned scale, and for layernorm a learned bias.
    eps: added to the variance (to the mean square for rmsnorm).
    dtype: dtype of the result.
  """

  kind: str = "layernorm"
  params: bool = False
  eps: float = 1e-5
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    ops.check_norm(self.kind)
    d, lead = x.shape[-1], (1,) * (x.ndim - 1)
    x = x.astype(jnp.float32)
    if self.kind == "layernorm":
      x = x - jnp.mean(x, axis=-1, keepdims=True)
    square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = x * ops.reciprocal_std(square, self.eps, self.kind, d)
    if self.params:
      ones, zeros = nn.initializers.ones, nn.initializers.zeros
      scale = self.param("scale", axes.partitioned(ones, "embed"), (d,), jnp.float32)
      x = x * scale.reshape(*lead, d)
      if self.kind == "layernorm":
        bias = self.param("bias", axes.partitioned(zeros, "embed"), (d,), jnp.float32)
        x = x + bias.reshape(*lead, d)
    return x.astype(self.dtype)


class Embed(nn.Module):
  """Token embeddings, and the output layer that shares them.

  Attributes:
    num_embeddings: number of rows of the table.
    features: width d of the table.
    init_std: standard deviation of the initial values.
    dtype: dtype of the returned embeddings.
    axis: logical name of the rows, "vocab" or "position".
  """

  num_embeddings: int
  features: int
  init_std: float = 0.02
  dtype: Dtype = jnp.float32
  axis: str = "vocab"

  def setup(self) -> None:
    init = axes.partitioned(nn.initializers.normal(self.init_std), self.axis, "embed")
    self.embedding = self.param(
      "embedding", init, (self.num_embeddings, self.features), jnp.float32
    )

  def __call__(self, ids: jax.Array) -> jax.Array:
    """Returns the embeddings `[..., d]` of the ids `[...]`."""
    return jnp.take(self.embedding, ids, axis=0).astype(self.dtype)

  def attend(self, x: jax.Array) -> jax.Array:
    """Returns the logits of `x` `[..., d]`, float32 `[..., num_embeddings]`."""
    return output_logits(x, self.embedding.astype(self.dtype).T)


def output_logits(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Returns `x @ kernel`, `[..., d] @ [d, V]`, with operands in their dtype and float32 sums."""
  return jnp.einsum(
    "...d,dv->...v",
    x,
    kernel,
    precision=precision(kernel.dtype),
    preferred_element_type=jnp.float32,
  )


def rotary(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
  """Returns x with rotary position embedding (arXiv 2104.09864), in the form that rotates halves.

  Args:
    x: queries or keys, `[B, L, h, k]` with k even.
    positions: positions of the tokens, int `[B | 1, L]`.
    theta: base of the wavelengths.

  Returns:
    `[B, L, h, k]` in x's dtype; angles and products are float32.
  """
  half = x.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions[..., None, None].astype(jnp.float32) * frequencies[None, None, None, :]
  sin, cos = jnp.sin(angles), jnp.cos(angles)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


class FeedForward(nn.Module):
  """The position-wise branch, `d -> d_ff -> d`, without biases.

  Attributes:
    d_ff: inner width.
    activation: "gelu" (tanh approximation), or "swiglu" (arXiv 2002.05202; a gate and a value, each
      d_ff wide). Another word raises ValueError when called.
    init_std: standard deviation of initial kernels.
    output_init_scale: factor of `init_std` for the output projection.
    dtype: dtype of the matrix products and the result.
  """

  d_ff: int
  activation: str = "gelu"
  init_std: float = 0.02
  output_init_scale: float = 1.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, context: TokenContext) -> jax.Array:
    del context
    if self.activation not in ACTIVATIONS:
      raise ValueError(f"activation={self.activation!r} is unknown; choose one of {ACTIVATIONS}")
    d = x.shape[-1]
    normal = nn.initializers.normal
    inner = axes.partitioned(normal(self.init_std), "embed", "mlp")
    outer = axes.partitioned(normal(self.init_std * self.output_init_scale), "mlp", "embed")
    names = (axes.BATCH, axes.LENGTH, axes.MLP)

    def dense(name: str, init, shape: tuple[int, int], x: jax.Array) -> jax.Array:
      kernel = self.param(name, init, shape, jnp.float32).astype(self.dtype)
      return jnp.einsum("...d,df->...f", x, kernel, precision=precision(self.dtype))

    x = x.astype(self.dtype)
    hidden = dense("in_kernel", inner, (d, self.d_ff), x)
    if self.activation == "swiglu":
      hidden = nn.silu(dense("gate_kernel", inner, (d, self.d_ff), x)) * hidden
    else:
      hidden = nn.gelu(hidden)
    if hidden.ndim == len(names):
      hidden = axes.constrain(hidden, names)
    return dense("out_kernel", outer, (self.d_ff, d), hidden)
