"""A weighted sum of normed streams that is normed itself, as a read of the streams as they are."""

import flax
import jax
import jax.numpy as jnp

from hc_jax.ops import combine
from hc_jax.ops.combine import lift
from hc_jax.ops.project import reciprocal_std


@flax.struct.dataclass
class ReadNorm:
  """Norms around the weighted sum of a read, and a second read that is added behind them.

  Attributes:
    scale: float32 `[v]`, factor of the normed sum.
    plus: float32 `[v, n]`, the read that is added.
    eps: what both norms add to the mean square.
  """

  scale: jax.Array
  plus: jax.Array
  eps: float = flax.struct.field(pytree_node=False, default=1e-6)


def normed_read(
  streams: jax.Array, weights: jax.Array, norm: ReadNorm, derivatives: str = "custom"
) -> jax.Array:
  """Returns the read `scale * rmsnorm(sum_j weights[j] rmsnorm(X[j])) + plus @ X`.

  RMSNorm without gains is a factor for each token, so that the read stays one number a stream. The
  streams are read once more to find the factors.

  Args:
    streams: `[..., n, w]`.
    weights: float32 `[..., v, n]`, of the normed streams.
    norm: norms and what is added.
    derivatives: "custom" or "autodiff", as in `hc_jax.read`.

  Returns:
    float32 `[..., v, n]`, weights of the streams as they are.
  """
  weights, scale = (a.astype(jnp.float32) for a in (weights, norm.scale))  # a user's x64
  weights = lift(weights, streams.ndim) * _rstd(streams, norm.eps)[..., None, :]
  summed = combine.read(weights, streams, jnp.float32, derivatives)
  scale = lift(scale, streams.ndim - 1) * _rstd(summed, norm.eps)
  return scale[..., None] * weights + lift(norm.plus, streams.ndim)


def _rstd(x: jax.Array, eps: float) -> jax.Array:
  """Computes what RMSNorm multiplies with, float32 `[..., n]`."""
  square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1)
  return reciprocal_std(square, eps, "rmsnorm", x.shape[-1])
