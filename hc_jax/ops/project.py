"""The norm and the projection from which dynamic coefficients are made, as one contraction."""

import functools

import jax
import jax.numpy as jnp

from hc_jax.ops.combine import HIGHEST, check_implementation, lift

NORMS = ("layernorm", "rmsnorm")


def project(
  streams: jax.Array,
  kernel: jax.Array,
  *,
  norm: str = "layernorm",
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  eps: float = 1e-5,
  implementation: str = "auto",
) -> jax.Array:
  """`norm(X) @ kernel`: of each stream by itself, or of all streams as one long vector.

  Which of them is the kernel's shape: HC's generators see one stream (2409.19606 Eq. 10-13, before
  the tanh), those of mHC all n of them (2512.24880 Eq. 7), without the axes being merged.

  The norm is folded in: `norm(x) @ W = (x @ W') * rstd + bias @ W`, where W' is W with the norm's
  scale multiplied in and, for LayerNorm, its columns centred. The normed streams never exist.

  Args:
    streams: `[..., n, w]`.
    kernel: `[w, k]` for each stream, `[n, w, k]` for all; float32.
    norm: "layernorm" or "rmsnorm", over the kernel's axes but the last.
    scale: `[w]` (`[n, w]`) or None, the norm's own scale.
    bias: likewise, the norm's own bias.
    eps: added to the variance (to the mean square for rmsnorm).
    implementation: "auto" has hand-written derivatives, "autodiff" leaves them to JAX.

  Returns:
    `[..., n, k]`, for all streams `[..., k]`; float32.

  Raises:
    ValueError: if `norm` or `implementation` is unknown.
  """
  check_norm(norm)
  check_implementation(implementation)
  weights = kernel if scale is None else scale[..., None] * kernel
  if norm == "layernorm":
    # (x - mean) @ W = x @ (W - mean of W's columns): centring W once spares a pass over x.
    weights = weights - jnp.mean(weights, axis=tuple(range(kernel.ndim - 1)), keepdims=True)
  run = _primal if implementation == "autodiff" else _project
  logits = run(streams, weights, norm, eps)
  if bias is not None:
    names, _ = _inputs(kernel)
    shift = jnp.einsum(f"{names},{names}k->k", bias, kernel, precision=HIGHEST)
    logits = logits + lift(shift, logits.ndim)
  return logits


def check_norm(norm: str) -> None:
  """Raises ValueError unless `norm` is one of `NORMS`."""
  if norm not in NORMS:
    raise ValueError(f"norm={norm!r} is unknown; choose one of {', '.join(map(repr, NORMS))}")


def _inputs(kernel):
  """The axes of the streams that a kernel `[w, k]` or `[n, w, k]` contracts: names, numbers."""
  count = kernel.ndim - 1
  return "nw"[-count:], tuple(range(-count, 0))


def _primal(streams, weights, norm, eps):
  product, rstd = _product(streams, weights, norm, eps)
  return product * rstd


def _product(streams, weights, norm, eps):
  """`x @ weights` `[..., k]` and the reciprocal standard deviation `[..., 1]`."""
  names, axes = _inputs(weights)
  x = streams.astype(jnp.float32)
  product = jnp.einsum(f"...{names},{names}k->...k", x, weights, precision=HIGHEST)
  square = jnp.mean(jnp.square(_centred(x, norm, axes)), axis=axes)
  return product, jax.lax.rsqrt(square + eps)[..., None]


def _centred(x, norm, axes):
  return x - jnp.mean(x, axis=axes, keepdims=True) if norm == "layernorm" else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _project(streams, weights, norm, eps):
  return _primal(streams, weights, norm, eps)


def _forward(streams, weights, norm, eps):
  product, rstd = _product(streams, weights, norm, eps)
  return product * rstd, (streams, weights, product, rstd)


def _backward(norm, eps, saved, grad):
  del eps
  streams, weights, product, rstd = saved
  names, axes = _inputs(weights)
  x = streams.astype(jnp.float32)
  d_product = grad * rstd
  # k before w in the result: the contraction over all tokens then runs along rows of both.
  d_weights = jnp.einsum(f"...k,...{names}->k{names}", d_product, x, precision=HIGHEST)
  d_square = jnp.sum(grad * product, axis=-1, keepdims=True) * rstd**3 / weights[..., 0].size
  d_streams = jnp.einsum(f"...k,{names}k->...{names}", d_product, weights, precision=HIGHEST)
  d_streams -= jnp.expand_dims(d_square[..., 0], axes) * _centred(x, norm, axes)
  return d_streams.astype(streams.dtype), jnp.moveaxis(d_weights, 0, -1)


_project.defvjp(_forward, _backward)
