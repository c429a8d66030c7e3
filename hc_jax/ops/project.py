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
  """`norm(X) @ kernel` for each stream by itself (2409.19606 Eq. 10-13, before the tanh).

  The norm is folded in: `norm(x) @ W = (x @ W') * rstd + bias @ W`, where W' is W with the norm's
  scale multiplied in and, for LayerNorm, its columns centred. The normed streams never exist.

  Args:
    streams: `[..., n, w]`.
    kernel: `[w, k]`, float32.
    norm: "layernorm" or "rmsnorm", over w.
    scale: `[w]` or None, the norm's own scale.
    bias: `[w]` or None, the norm's own bias.
    eps: added to the variance (to the mean square for rmsnorm).
    implementation: "auto" has hand-written derivatives, "autodiff" leaves them to JAX.

  Returns:
    `[..., n, k]`, float32.

  Raises:
    ValueError: if `norm` or `implementation` is unknown.
  """
  check_norm(norm)
  check_implementation(implementation)
  weights = kernel if scale is None else scale[:, None] * kernel
  if norm == "layernorm":
    # (x - mean) @ W = x @ (W - mean of W's columns): centring W once spares a pass over x.
    weights = weights - jnp.mean(weights, axis=0, keepdims=True)
  run = _primal if implementation == "autodiff" else _project
  logits = run(streams, weights, norm, eps)
  if bias is not None:
    shift = jnp.einsum("w,wk->k", bias, kernel, precision=HIGHEST)
    logits = logits + lift(shift, logits.ndim)
  return logits


def check_norm(norm: str) -> None:
  """Raises ValueError unless `norm` is one of `NORMS`."""
  if norm not in NORMS:
    raise ValueError(f"norm={norm!r} is unknown; choose one of {', '.join(map(repr, NORMS))}")


def _primal(streams, weights, norm, eps):
  product, rstd = _product(streams, weights, norm, eps)
  return product * rstd


def _product(streams, weights, norm, eps):
  """`x @ weights` `[..., n, k]` and the reciprocal standard deviation `[..., n, 1]`."""
  x = streams.astype(jnp.float32)
  product = jnp.einsum("...w,wk->...k", x, weights, precision=HIGHEST)
  square = jnp.square(_centred(x, norm))
  return product, jax.lax.rsqrt(jnp.mean(square, axis=-1, keepdims=True) + eps)


def _centred(x, norm):
  return x - jnp.mean(x, axis=-1, keepdims=True) if norm == "layernorm" else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _project(streams, weights, norm, eps):
  return _primal(streams, weights, norm, eps)


def _forward(streams, weights, norm, eps):
  product, rstd = _product(streams, weights, norm, eps)
  return product * rstd, (streams, weights, product, rstd)


def _backward(norm, eps, saved, grad):
  del eps
  streams, weights, product, rstd = saved
  x = streams.astype(jnp.float32)
  d_product = grad * rstd
  # k before w in the result: the contraction over all tokens then runs along rows of both.
  d_weights = jnp.einsum("...k,...w->kw", d_product, x, precision=HIGHEST).T
  d_rstd = jnp.sum(grad * product, axis=-1, keepdims=True)
  d_streams = jnp.einsum("...k,wk->...w", d_product, weights, precision=HIGHEST)
  d_streams -= d_rstd * rstd**3 / x.shape[-1] * _centred(x, norm)
  return d_streams.astype(streams.dtype), d_weights


_project.defvjp(_forward, _backward)
