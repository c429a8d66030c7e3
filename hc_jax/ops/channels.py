"""A read with a weight for every channel of every stream, computed from a few numbers per token.

The gates of all channels would take n w float32 numbers per token. The functions here compute them
within `jax.checkpoint`: the backward pass computes them again, and only `hidden` and the streams
are kept.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from hc_jax.coefs import Coefs, Gates
from hc_jax.ops.combine import HIGHEST, lift
from hc_jax.ops.project import normed, reciprocal_std


def with_gates(
  streams: jax.Array,
  coefs: Coefs,
  kernel: jax.Array,
  scale: jax.Array | None,
  eps: float,
  derivatives: str = "custom",
) -> Coefs:
  """Returns maps whose read has a weight for every channel.

  Args:
    streams: `[..., n, w]`.
    coefs: maps with `gates.hidden`, `[..., r]`.
    kernel: kernel of the gates, `[r, v, n, w]`.
    scale: scale of the norm, `[n, w]`, or None.
    eps: added to the mean square in the norm.
    derivatives: "custom" or "autodiff", as in `hc_jax.read`.

  Returns:
    The maps with complete `gates`, and with the mean of the weights over channels as `read`.
  """
  scale = None if scale is None else scale.astype(jnp.float32)
  gates = Gates(coefs.gates.hidden, kernel.astype(jnp.float32), scale, eps)
  mean = _again(_mean_read, derivatives)(streams, gates)
  return coefs.replace(read=mean, gates=gates)


def read(
  streams: jax.Array, gates: Gates, dtype: jax.typing.DTypeLike, derivatives: str = "custom"
) -> jax.Array:
  """Returns `mean_i G[i] * scale[i] * rmsnorm(X[i])`, the branch input `[..., v, w]`.

  Args:
    streams: `[..., n, w]`.
    gates: complete gates, as `with_gates` returns them.
    dtype: dtype of the result; everything before is float32.
    derivatives: "custom" or "autodiff", as in `hc_jax.read`.

  Raises:
    ValueError: if the gates belong to streams of another shape.
  """
  wanted = gates.kernel.shape[-2:]
  if streams.shape[-2:] != wanted:
    raise ValueError(
      f"read: streams are {streams.shape}, but the gates belong to streams "
      f"[..., {wanted[0]}, {wanted[1]}]; use the coefs that were made from these streams"
    )
  return _again(_read, derivatives)(streams, gates).astype(dtype)


def channel_weights(streams: jax.Array, gates: Gates) -> jax.Array:
  """Returns the weights of the read on streams without a norm.

  The branch input is `sum_i weights[..., i, :] * X[..., i, :]`.

  Args:
    streams: `[..., n, w]`.
    gates: complete gates, as `with_gates` returns them.

  Returns:
    float32 `[..., v, n, w]`.
  """
  n, w = streams.shape[-2:]
  square = jnp.mean(jnp.square(streams.astype(jnp.float32)), axis=-1)
  rstd = reciprocal_std(square, gates.eps, "rmsnorm", w)
  return _scaled(_opened(gates), gates) * rstd[..., None, :, None] / n


def _again(function: Callable, derivatives: str) -> Callable:
  return function if derivatives == "autodiff" else jax.checkpoint(function)


def _read(streams: jax.Array, gates: Gates) -> jax.Array:
  x = _scaled(normed(streams, "rmsnorm", gates.eps), gates)
  return jnp.mean(_opened(gates) * x[..., None, :, :], axis=-2)


def _mean_read(streams: jax.Array, gates: Gates) -> jax.Array:
  """Returns the mean over channels of `channel_weights`, float32 `[..., v, n]`."""
  return jnp.mean(channel_weights(streams, gates), axis=-1)


def _opened(gates: Gates) -> jax.Array:
  """Returns the gates `G`, float32 `[..., v, n, w]`."""
  return jax.nn.sigmoid(
    jnp.einsum("...r,rvnw->...vnw", gates.hidden, gates.kernel, precision=HIGHEST)
  )


def _scaled(x: jax.Array, gates: Gates) -> jax.Array:
  return x if gates.scale is None else x * lift(gates.scale, x.ndim)
