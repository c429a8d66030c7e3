"""The norm and the projection from which dynamic coefficients are made, as one contraction."""

import jax
import jax.numpy as jnp

NORMS = ("layernorm", "rmsnorm")


def project(
  streams: jax.Array,
  kernel: jax.Array,
  *,
  norm: str = "layernorm",
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  eps: float = 1e-5,
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

  Returns:
    `[..., n, k]`, float32.

  Raises:
    ValueError: if `norm` is neither.
  """
  check_norm(norm)
  x = streams.astype(jnp.float32)
  weights = kernel if scale is None else scale[:, None] * kernel
  if norm == "layernorm":
    # (x - mean) @ W = x @ (W - mean of W's columns): centring W once spares a pass over x.
    weights = weights - jnp.mean(weights, axis=0, keepdims=True)
    second_moment = jnp.var(x, axis=-1, keepdims=True)
  else:
    second_moment = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
  logits = jnp.einsum("...w,wk->...k", x, weights, precision=jax.lax.Precision.HIGHEST)
  logits = logits * jax.lax.rsqrt(second_moment + eps)
  if bias is not None:
    shift = jnp.einsum("w,wk->k", bias, kernel, precision=jax.lax.Precision.HIGHEST)
    logits = logits + shift.reshape((1,) * (logits.ndim - 1) + shift.shape)
  return logits


def check_norm(norm: str) -> None:
  """Raises ValueError unless `norm` is one of `NORMS`."""
  if norm not in NORMS:
    raise ValueError(f"norm={norm!r} is unknown; choose one of {', '.join(map(repr, NORMS))}")
