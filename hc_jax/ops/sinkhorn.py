"""Sinkhorn's projection of logits onto doubly stochastic matrices, and its derivatives.

Inside, the two axes of the matrix come first and the tokens last, so that every step is an
elementwise pass along the tokens, for every size of matrix. The steps are a loop and never
unrolled, because twenty unrolled steps make XLA compile for minutes.
"""

import functools

import jax
import jax.numpy as jnp

from hc_jax.ops.options import check_options, reverse_mode

SINKHORN_GRADIENTS = ("exact", "implicit")
_TINY = 1e-30  # added to pivots, which are zero where the matrix is a permutation


def sinkhorn(
  logits: jax.Array,
  *,
  steps: int = 20,
  eps: float = 0.0,
  gradient: str = "exact",
  derivatives: str = "custom",
) -> jax.Array:
  """Returns `exp(logits)` with its columns and then its rows divided by their sums, `steps` times.

  This is 2512.24880, Eq. 9. The rows come last: they sum to one to rounding. The columns do as far
  as the steps have converged (twenty steps on 4 x 4 logits N(0, 1): mean error 1e-6, but at worst
  6e-3). The first step works on logarithms, after which no sum can vanish. Hence no logits
  overflow.

  Args:
    logits: `[..., n, n]`.
    steps: number of steps, at least 1.
    eps: 0 in the paper. DeepSeek-V4's form adds eps to the first softmax and to every sum; its
      `comb` is the transpose of this result.
    gradient: "exact" is the gradient of the steps. "implicit" is the gradient of their limit,
      from one small linear system. They agree where the steps have converged.
    derivatives: "custom" uses derivatives written by hand, which keep only the logits. The exact
      gradient then repeats the steps, keeps their sums and undoes the steps one by one. With
      "autodiff" they are JAX's own, which forward mode needs.

  Returns:
    `[..., n, n]`, float32.

  Raises:
    ValueError: if `steps` is below 1, or `gradient` or `derivatives` is unknown.
  """
  check_sinkhorn(steps, gradient)
  check_options("auto", derivatives)
  z = jnp.moveaxis(logits.astype(jnp.float32), (-2, -1), (0, 1))
  if derivatives == "custom":
    with reverse_mode():
      p = (_exact if gradient == "exact" else _implicit)(z, steps, eps)
  elif gradient == "exact":
    p = jax.checkpoint(_primal, static_argnums=(1, 2))(z, steps, eps)
  else:
    p = jax.lax.stop_gradient(_primal(z, steps, eps))
    p += tangent(p, z - jax.lax.stop_gradient(z))  # adds zero, but with the limit's derivative
  return jnp.moveaxis(p, (0, 1), (-2, -1))


def check_sinkhorn(steps: int, gradient: str) -> None:
  """Raises ValueError unless `steps` is at least 1 and `gradient` is "exact" or "implicit"."""
  if steps < 1:
    raise ValueError(f"sinkhorn needs at least one step, not steps={steps}")
  if gradient not in SINKHORN_GRADIENTS:
    raise ValueError(
      f"Sinkhorn's gradient={gradient!r} is unknown; choose one of {SINKHORN_GRADIENTS}"
    )


def _first(z, eps):
  """Returns the matrix after the first step: columns, then rows."""
  if eps == 0:
    return jax.nn.softmax(jax.nn.log_softmax(z, axis=0), axis=1)
  p = jax.nn.softmax(z, axis=0) + eps
  return p / _sums(p, 1, eps)


def _sums(p, axis, eps):
  return jnp.sum(p, axis=axis, keepdims=True) + eps


def _step(p, eps):
  """Divides columns, then rows, by their sums; returns the matrix and both sums."""
  columns = _sums(p, 0, eps)
  p = p / columns
  rows = _sums(p, 1, eps)
  return p / rows, (columns, rows)


def _primal(z, steps, eps):
  return jax.lax.fori_loop(1, steps, lambda _, p: _step(p, eps)[0], _first(z, eps))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _exact(z, steps, eps):
  return _primal(z, steps, eps)


def _exact_forward(z, steps, eps):
  return _primal(z, steps, eps), z


def _exact_backward(steps, eps, z, grad):
  """Undoes each division by its sum: p = x / s has dx = (dp - sum(dp * p)) / s and x = p * s."""
  first, first_vjp = jax.vjp(lambda z: _first(z, eps), z)
  last, sums = jax.lax.scan(lambda p, _: _step(p, eps), first, length=steps - 1)

  def undo(p, grad, s, axis):
    return p * s, (grad - jnp.sum(grad * p, axis=axis, keepdims=True)) / s

  def back(carry, sums):
    columns, rows = sums
    return undo(*undo(*carry, rows, 1), columns, 0), None

  (_, grad), _ = jax.lax.scan(back, (last, grad), sums, reverse=True)
  return first_vjp(grad)


_exact.defvjp(_exact_forward, _exact_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _implicit(z, steps, eps):
  return _primal(z, steps, eps)


def _implicit_forward(z, steps, eps):
  p = _primal(z, steps, eps)
  return p, p


def _implicit_backward(steps, eps, p, grad):
  del steps, eps
  return (tangent(p, grad),)  # the derivative is symmetric


_implicit.defvjp(_implicit_forward, _implicit_backward)


def tangent(p: jax.Array, change: jax.Array) -> jax.Array:
  """Returns the derivative of the doubly stochastic limit p: `p * (change - a 1^T - 1 b^T)`.

  a and b keep the sums of rows and columns at one. With b eliminated, a solves a Laplacian system
  with weights `p p^T`. Here a is zero for the last row, and differences are taken before sums, so
  that no digits cancel near the identity. The derivative is symmetric: it is the gradient too.

  Args:
    p: `[n, n, ...]`, with rows and columns that sum to one.
    change: change of the logits, `[n, n, ...]`.
  """
  n = p.shape[0]
  if n == 1:
    return jnp.zeros_like(p)
  pairs = p[:, None] * p[None]  # [i, k, j, ...]
  weights = jnp.sum(pairs, axis=2)
  off = 1 - jnp.eye(n, dtype=jnp.float32).reshape(n, n, *(1,) * (p.ndim - 2))
  right = jnp.sum(pairs * (change[:, None] - change[None]), axis=(1, 2))
  laplacian = (1 - off) * jnp.sum(off * weights, axis=1, keepdims=True) - off * weights
  system = jnp.concatenate([laplacian[:-1, :-1], right[:-1, None]], axis=1)

  def eliminate(k, system):  # Gauss-Jordan; an M-matrix needs no pivoting
    row = system[k] / (system[k, k][None] + _TINY)
    return (system - system[:, k][:, None] * row[None]).at[k].set(row)

  a = jax.lax.fori_loop(0, n - 1, eliminate, system)[:, -1]
  a = jnp.concatenate([a, jnp.zeros_like(a[:1])])[:, None]
  b = jnp.sum(p * (change - a), axis=0, keepdims=True)
  return p * (change - a - b)
