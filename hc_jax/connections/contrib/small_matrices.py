"""Arithmetic on small matrices, one per token, unrolled so that XLA can fuse it."""

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns `a @ b` `[..., n, n]`, with float32 products on every device."""
  return jnp.einsum("...ij,...jk->...ik", a, b, precision=HIGHEST)


def skew(entries: jax.Array, n: int) -> jax.Array:
  """Returns a skew-symmetric matrix `[..., n, n]` from its entries above the diagonal.

  Args:
    entries: `[..., n (n - 1) / 2]`, row by row.
    n: number of rows.
  """
  rows, start = [], 0
  for i in range(n):
    end = start + n - 1 - i
    zeros = (*((0, 0),) * (entries.ndim - 1), (i + 1, 0))
    # Padded, because meshes with explicit axes refuse indexed updates.
    rows.append(jnp.pad(entries[..., start:end], zeros))
    start = end
  upper = jnp.stack(rows, axis=-2)
  return upper - upper.swapaxes(-1, -2)


def identity(n: int, ndim: int) -> jax.Array:
  """Returns the identity `[1, ..., 1, n, n]` with `ndim` axes."""
  return jnp.eye(n, dtype=jnp.float32).reshape((1,) * (ndim - 2) + (n, n))


def solve(a: jax.Array, b: jax.Array) -> jax.Array:
  """Solves `a @ x = b` by elimination without pivoting, for matrices that need none.

  Pivoting is not needed where the symmetric part of `a` is positive definite, for example for the
  identity plus a skew-symmetric matrix, or for a positive definite Hessian.

  Args:
    a: `[..., n, n]`.
    b: `[..., n, k]`.
  """
  n = a.shape[-1]
  for i in range(n):
    pivot = a[..., i : i + 1, i : i + 1]
    row, right = a[..., i : i + 1, :] / pivot, b[..., i : i + 1, :] / pivot
    factor = a[..., :, i : i + 1]
    others = (jnp.arange(n) != i).astype(a.dtype).reshape((1,) * (a.ndim - 2) + (n, 1))
    a = jnp.where(others > 0, a - factor * row, row)
    b = jnp.where(others > 0, b - factor * right, right)
  return b


def cayley(generator: jax.Array) -> jax.Array:
  """Returns `(I + A)^-1 (I - A)` `[..., n, n]`, which is a rotation if A is skew-symmetric."""
  eye = identity(generator.shape[-1], generator.ndim)
  return solve(eye + generator, eye - generator)
