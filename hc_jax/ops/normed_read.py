"""A normed sum of normed streams, expressed as a plain read of the streams."""

import flax
import jax
import jax.numpy as jnp

from hc_jax.ops import combine
from hc_jax.ops.combine import lift
from hc_jax.ops.project import reciprocal_std


@flax.struct.dataclass
class ReadNorm:
  """Norms before and after the weighted sum of a read, and a second read that is added after them.

  Attributes:
    scale: factor of the normed sum, float32 `[v]`.
    plus: read that is added, float32 `[v, n]`.
    eps: added to the mean square in both norms.
  """

  scale: jax.Array
  plus: jax.Array
  eps: float = flax.struct.field(pytree_node=False, default=1e-6)


def normed_read(
  streams: jax.Array, weights: jax.Array, norm: ReadNorm, derivatives: str = "custom"
) -> jax.Array:
  """Returns the read `scale * rmsnorm(sum_j weights[j] rmsnorm(X[j])) + plus @ X`.

  RMSNorm without gains is one factor per token, so that the read keeps one number per stream. To
  find the factors, the streams are read once more.

  Args:
    streams: `[..., n, w]`.
    weights: weights of the normed streams, float32 `[..., v, n]`.
    norm: the norms and the added read.
    derivatives: "custom" or "autodiff", as in `hc_jax.read`.

  Returns:
    Weights of the streams without their norms, float32 `[..., v, n]`.
  """
  # With x64 enabled these may be float64.
  weights, scale = (a.astype(jnp.float32) for a in (weights, norm.scale))
  weights = lift(weights, streams.ndim) * _rstd(streams, norm.eps)[..., None, :]
  summed = combine.read(weights, streams, jnp.float32, derivatives)
  scale = lift(scale, streams.ndim - 1) * _rstd(summed, norm.eps)
  return scale[..., None] * weights + lift(norm.plus, streams.ndim)


def _rstd(x: jax.Array, eps: float) -> jax.Array:
  """Computes the factor of RMSNorm, float32 `[..., n]`."""
  square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1)
  return reciprocal_std(square, eps, "rmsnorm", x.shape[-1])
