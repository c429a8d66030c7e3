"""Expand, read, write and reduce: everything that is ever done to streams, as pure functions.

Streams are `[..., n, w]`: the leading axes are those of the tokens, n streams of width w. The two
last axes are never merged, nor folded into the batch, so that each keeps its name and sharding.
All sums are float32, whatever the dtype of the streams, and are rounded once.
"""

import jax
import jax.numpy as jnp

from hc_jax import axes
from hc_jax.coefs import Coefs


def expand(x: jax.Array, num_streams: int, fractions: int = 1) -> jax.Array:
  """Copies an embedding into streams (Algorithm 1, line 1).

  Args:
    x: `[..., d]`.
    num_streams: n, a multiple of `fractions`.
    fractions: m; each stream holds one m-th of the width. 1 copies the whole.

  Returns:
    `[..., n, d // m]` in x's dtype; stream j holds fraction `j % m`.

  Raises:
    ValueError: if m does not divide d or n.
  """
  d = x.shape[-1]
  _check_fractions(num_streams, fractions)
  if d % fractions:
    raise ValueError(
      f"expand: a width of {d} cannot be cut into {fractions} fractions; "
      f"choose fractions that divide {d}"
    )
  x = x.reshape(*x.shape[:-1], fractions, d // fractions)
  repeats = (1,) * (x.ndim - 2) + (num_streams // fractions, 1)
  return _constrain(jnp.tile(x, repeats))


def reduce(streams: jax.Array, fractions: int = 1) -> jax.Array:
  """Sums the copies of each fraction (Algorithm 1, last line) and lays the fractions side by side.

  Args:
    streams: `[..., n, w]`.
    fractions: m, as given to `expand`.

  Returns:
    `[..., m * w]`, float32: it goes into the final norm unrounded.

  Raises:
    ValueError: if m does not divide n.
  """
  *lead, n, w = streams.shape
  _check_fractions(n, fractions)
  copies = streams.reshape(*lead, n // fractions, fractions, w)
  return jnp.sum(copies, axis=-3, dtype=jnp.float32).reshape(*lead, fractions * w)


def read(streams: jax.Array, coefs: Coefs, dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
  """The branch input `read @ X` (Eq. 3), one slot after the other.

  Args:
    streams: `[..., n, w]`.
    coefs: their `read` is `[..., v, n]`.
    dtype: of the result; the streams' own by default. Sums are float32.

  Returns:
    `[..., v * w]`.
  """
  *lead, _, w = streams.shape
  weights = _lift(coefs.read, streams.ndim)
  h = _combine(weights, streams)
  h = jnp.broadcast_to(h, (*lead, *h.shape[-2:]))
  return h.reshape(*lead, -1).astype(dtype or streams.dtype)


def write(streams: jax.Array, branch_output: jax.Array, coefs: Coefs) -> jax.Array:
  """The next streams `mix @ X + write @ y` (Eq. 4 and 5).

  Args:
    streams: `[..., n, w]`, those that `read` saw.
    branch_output: `[..., v * w]`.
    coefs: what the connection gave for this sublayer.

  Returns:
    `[..., n, w]` in the streams' dtype, rounded once.

  Raises:
    ValueError: if the branch output has another shape than the branch input.
  """
  *lead, _, w = streams.shape
  v = coefs.write.shape[-1]
  if branch_output.shape != (*lead, v * w):
    raise ValueError(
      f"write: the branch output is {branch_output.shape}, but streams {streams.shape} take "
      f"{(*lead, v * w)}; a branch must return the shape of its input"
    )
  y = branch_output.reshape(*lead, v, w)
  out = _combine(_lift(coefs.write, streams.ndim), y)
  if coefs.mix is None:
    out = out + streams.astype(jnp.float32)
  else:
    out = out + _combine(_lift(coefs.mix, streams.ndim), streams)
  return _constrain(out.astype(streams.dtype))


def _combine(weights: jax.Array, x: jax.Array) -> jax.Array:
  """`weights[..., i, j] * x[..., j, w]` summed over j, float32.

  A sum of products over the few j fuses into one elementwise pass; as an einsum XLA makes a batched
  matrix product of it, with its operands copied to float32.
  """
  x = x.astype(jnp.float32)
  terms = [weights[..., :, j, None] * x[..., None, j, :] for j in range(x.shape[-2])]
  return sum(terms[1:], start=terms[0])


def _lift(weights: jax.Array, ndim: int) -> jax.Array:
  """Gives static coefficients the token axes they lack, as axes of size one."""
  return weights.reshape((1,) * (ndim - weights.ndim) + weights.shape)


def _constrain(streams: jax.Array) -> jax.Array:
  return axes.constrain(streams, axes.stream_axes(streams.ndim))


def _check_fractions(num_streams: int, fractions: int) -> None:
  if fractions < 1 or num_streams < 1 or num_streams % fractions:
    raise ValueError(
      f"{num_streams} streams cannot hold {fractions} fractions: num_streams must be at least 1 "
      "and a multiple of fractions"
    )
