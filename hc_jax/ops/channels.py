"""A read with a weight for every channel of every stream, rebuilt from a few numbers a token.

The gates of all channels would be n w numbers of float32 a token. Read and mean make them within
`jax.checkpoint`, so that a backward pass makes them again and keeps `hidden` and the streams alone.
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
    kernel: `[r, v, n, w]`, of the gates.
    scale: `[n, w]` of the norm, or None.
    eps: of the norm.
    derivatives: as in `hc_jax.read`.

  Returns:
    The maps with all of their gates, and with the mean over channels as `read`.
  """
  scale = None if scale is None else scale.astype(jnp.float32)
  gates = Gates(coefs.gates.hidden, kernel.astype(jnp.float32), scale, eps)
  mean = _again(_mean_read, derivatives)(streams, gates)
  return coefs.replace(read=mean, gates=gates)


def read(
  streams: jax.Array, gates: Gates, dtype: jax.typing.DTypeLike, derivatives: str = "custom"
) -> jax.Array:
  """Returns the mean over streams of each channel, normed and times its gate: `[..., v, w]`.

  Args:
    streams: `[..., n, w]`.
    gates: what the weights are made of.
    dtype: of the result; all is float32 until then.
    derivatives: as in `hc_jax.read`.

  Raises:
    ValueError: if the gates are those of streams of another shape.
  """
  wanted = gates.kernel.shape[-2:]
  if streams.shape[-2:] != wanted:
    raise ValueError(
      f"read: streams are {streams.shape}, and the gates are those of streams "
      f"[..., {wanted[0]}, {wanted[1]}]; use the coefs that were made of these very streams"
    )
  return _again(_read, derivatives)(streams, gates).astype(dtype)


def channel_weights(streams: jax.Array, gates: Gates) -> jax.Array:
  """Returns the weights of the read on the streams as they are, before their norm.

  The branch input is `sum_i weights[..., i, :] * X[..., i, :]`.

  Args:
    streams: `[..., n, w]`.
    gates: what the weights are made of.

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
  """The mean over channels of the weight on a stream as it is, float32 `[..., v, n]`."""
  return jnp.mean(channel_weights(streams, gates), axis=-1)


def _opened(gates: Gates) -> jax.Array:
  """The gates `G`, float32 `[..., v, n, w]`."""
  return jax.nn.sigmoid(
    jnp.einsum("...r,rvnw->...vnw", gates.hidden, gates.kernel, precision=HIGHEST)
  )


def _scaled(x: jax.Array, gates: Gates) -> jax.Array:
  return x if gates.scale is None else x * lift(gates.scale, x.ndim)
