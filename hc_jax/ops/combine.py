"""The two products from which all operations are built, and their hand-written derivatives.

Per token, `combine` multiplies a small matrix of coefficients with the streams. `outer` contracts
two sets of streams over their width, which gives the gradient of such a matrix. Autodiff of
`combine` would make many separate reductions instead of `outer`; on CPU that is an order of
magnitude slower. The hand-written derivatives agree with autodiff to rounding. Forward-mode
differentiation (jvp, linearize) needs `derivatives="autodiff"`.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hc_jax.ops.options import reverse_mode
from hc_jax.ops.platform import alike, by_platform, explicit_sharding, explicit_spec, stored

HIGHEST = jax.lax.Precision.HIGHEST
Dtype = jax.typing.DTypeLike


def combine(weights: jax.Array, x: jax.Array) -> jax.Array:
  """Returns `sum_j weights[..., i, j] * x[..., j, w]`, float32 `[..., i, w]`."""
  return by_platform(weights, x, default=_multiply_add, tpu=_product)


def _multiply_add(weights: jax.Array, x: jax.Array) -> jax.Array:
  """Computes `combine` as a sum over the few j, which XLA fuses into one pass over x.

  From an einsum XLA would make, on CPU and GPU, a batched matrix product of float32 copies.
  """
  x = x.astype(jnp.float32)
  weights = lift(weights, x.ndim)
  terms = [weights[..., :, j, None] * x[..., None, j, :] for j in range(x.shape[-2])]
  return sum(terms[1:], start=terms[0])


def _product(weights: jax.Array, x: jax.Array) -> jax.Array:
  """Computes `combine` as an einsum. On TPU multiply-adds would need an array `[..., i, j, w]`."""
  shape = (*x.shape[:-2], *weights.shape[-2:])
  spec = explicit_spec(x)
  sharding = explicit_sharding(x, spec and (*spec[:-2], None, None))
  return jnp.einsum(
    "...ij,...jw->...iw",
    jnp.broadcast_to(weights, shape, out_sharding=sharding),
    x,
    precision=HIGHEST,
    preferred_element_type=jnp.float32,
  )


def outer(a: jax.Array, b: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns `sum_w a[..., i, w] * b[..., j, w]`, float32, summed to `shape`.

  The sum runs over the token axes that `shape` does not have, or has with size one.
  """
  out = by_platform(a, b, default=_few_pairs, gpu=_row_sums, tpu=_outer_product)
  extra = out.ndim - len(shape)
  ones = tuple(i + extra for i, size in enumerate(shape) if size == 1 != out.shape[i + extra])
  return jnp.sum(out, axis=(*range(extra), *ones)).reshape(shape)


def _outer_product(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum(
    "...iw,...jw->...ij", a, b, precision=HIGHEST, preferred_element_type=jnp.float32
  )


def _row_sums(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes `outer` by one sum for each row of the array with fewer rows (for GPUs).

  XLA compiles up to eight such sums, because they have equal shapes, into one kernel that reads a
  and b once. From one sum per pair it makes several kernels, and from an einsum a kernel that does
  not share these reads.
  """
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  if a.shape[-2] < b.shape[-2]:
    return jnp.stack(stored([jnp.sum(row * b, axis=-1) for row in _rows(a)]), axis=-2)
  return jnp.stack(stored([jnp.sum(a * row, axis=-1) for row in _rows(b)]), axis=-1)


def _few_pairs(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes `outer` for all pairs of rows in one pass (for CPUs).

  It is faster than a product of such small matrices, except with one row, or with more pairs than
  registers.
  """
  m, n = a.shape[-2], b.shape[-2]
  if 1 in (m, n) or m * n > 16:
    return _outer_product(a, b)
  a, b = a.astype(jnp.float32), b.astype(jnp.float32)
  pairs = [a[..., i, :] * b[..., j, :] for i in range(m) for j in range(n)]
  out = jnp.stack(sum_together(pairs, (-1,)), axis=-1)
  return out.reshape(*out.shape[:-1], m, n)


def sum_together(terms: Sequence[jax.Array], axes: Sequence[int]) -> list[jax.Array]:
  """Returns each float32 term summed over axes, by one reduction with an accumulator per term.

  XLA fuses the computation of the terms into the reduction, and reads their inputs once.
  """

  def add(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]

  zeros = [jnp.zeros((), jnp.float32)] * len(terms)
  return jax.lax.reduce(terms, zeros, add, [axis % terms[0].ndim for axis in axes])


def _rows(x: jax.Array) -> list[jax.Array]:
  return [x[..., i : i + 1, :] for i in range(x.shape[-2])]


def lift(weights: jax.Array, ndim: int) -> jax.Array:
  """Returns coefficients with leading axes of size one, so that they have `ndim` axes."""
  return weights.reshape((1,) * (ndim - weights.ndim) + weights.shape)


def read(weights: jax.Array, streams: jax.Array, dtype: Dtype, derivatives: str) -> jax.Array:
  """Returns `weights @ streams`, `[..., v, w]` in `dtype`."""
  if derivatives == "autodiff":
    return _read_primal(weights, streams, dtype)
  with reverse_mode():
    return _read(*alike(weights, streams), jnp.dtype(dtype))


def write(
  mix: jax.Array | None,
  weights: jax.Array,
  streams: jax.Array,
  y: jax.Array,
  derivatives: str,
) -> jax.Array:
  """Returns `mix @ streams + weights @ y`, `[..., n, w]` in the streams' dtype."""
  if derivatives == "autodiff":
    return _write_primal(mix, weights, streams, y)
  with reverse_mode():
    return _write(*alike(mix, weights, streams, y))


def write_slot(
  slot: jax.Array, weights: jax.Array, streams: jax.Array, y: jax.Array, derivatives: str
) -> jax.Array:
  """Returns the streams with `weights @ y` added to one slot alone.

  For weights `[..., n, m]` a slot is m streams, from stream `m * slot` on. Others are not touched.
  """
  if derivatives == "autodiff":
    return _write_slot_primal(slot, weights, streams, y)
  with reverse_mode():
    return _write_slot(*alike(slot, weights, streams, y))


def _read_primal(weights, streams, dtype):
  out = combine(weights, streams)
  return jnp.broadcast_to(out, (*streams.shape[:-2], *out.shape[-2:])).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _read(weights, streams, dtype):
  return _read_primal(weights, streams, dtype)


def _read_forward(weights, streams, dtype):
  return _read_primal(weights, streams, dtype), (weights, streams)


def _read_backward(dtype, saved, grad):
  del dtype
  weights, streams = saved
  d_streams = combine(weights.swapaxes(-1, -2), grad).astype(streams.dtype)
  return outer(grad, streams, weights.shape), d_streams


_read.defvjp(_read_forward, _read_backward)


def _write_primal(mix, weights, streams, y):
  out = combine(weights, y)
  out += streams.astype(jnp.float32) if mix is None else combine(mix, streams)
  return out.astype(streams.dtype)


def _once(mix, x):
  """Materialises x, except for a float32 sum without a mix, which must compile to an addition."""
  return x if mix is None and x.dtype == jnp.float32 else stored(x)


@jax.custom_vjp
def _write(mix, weights, streams, y):
  return _once(mix, _write_primal(mix, weights, streams, y))


def _write_forward(mix, weights, streams, y):
  return _once(mix, _write_primal(mix, weights, streams, y)), (mix, weights, streams, y)


def _write_backward(saved, grad):
  mix, weights, streams, y = saved
  grad = _once(mix, grad)  # rounded once, as the sum of the gradients of all uses of the streams
  d_weights = outer(grad, y, weights.shape)
  d_y = combine(weights.swapaxes(-1, -2), grad).astype(y.dtype)
  if mix is None:
    return None, d_weights, grad, d_y
  d_streams = combine(mix.swapaxes(-1, -2), grad).astype(streams.dtype)
  return outer(grad, streams, mix.shape), d_weights, d_streams, d_y


_write.defvjp(_write_forward, _write_backward)


def _slot_rows(x, slot, m):
  return jax.lax.dynamic_slice_in_dim(x, m * slot, m, axis=x.ndim - 2)


def _with_slot_rows(x, rows, slot):
  return jax.lax.dynamic_update_slice_in_dim(x, rows, rows.shape[-2] * slot, axis=x.ndim - 2)


def _write_slot_primal(slot, weights, streams, y):
  m = weights.shape[-1]
  rows = _slot_rows(streams, slot, m).astype(jnp.float32) + combine(_slot_rows(weights, slot, m), y)
  return _with_slot_rows(streams, rows.astype(streams.dtype), slot)


@jax.custom_vjp
def _write_slot(slot, weights, streams, y):
  return _write_slot_primal(slot, weights, streams, y)


def _write_slot_forward(slot, weights, streams, y):
  return _write_slot_primal(slot, weights, streams, y), (slot, weights, y)


def _write_slot_backward(saved, grad):
  """Returns `grad` itself as the streams' gradient; autodiff would make a new copy."""
  slot, weights, y = saved
  m = weights.shape[-1]
  rows, gate = _slot_rows(grad, slot, m), _slot_rows(weights, slot, m)
  d_weights = _with_slot_rows(jnp.zeros_like(weights), outer(rows, y, gate.shape), slot)
  return None, d_weights, grad, combine(gate.swapaxes(-1, -2), rows).astype(y.dtype)


_write_slot.defvjp(_write_slot_forward, _write_slot_backward)
