"""Memory kept from forward to backward pass, found by tracing; nothing is compiled."""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Kept:
  """Bytes that autodiff keeps from the forward to the backward pass.

  Attributes:
    row: bytes for each row of a batch.
    fixed: bytes that do not depend on the batch, such as weights in another dtype, or masks.
    streams: part of `row` that holds streams, `[..., n, w]`.
    logits: part of `row` that is as wide as the vocabulary.
  """

  row: int
  fixed: int
  streams: int
  logits: int


def kept(
  loss: Callable[[Any, Any], jax.Array],
  params: Any,
  batch_of: Callable[[int], Any],
  *,
  stream: Shape,
  vocab_size: int,
) -> Kept:
  """Computes the bytes that `jax.grad(loss)` keeps, from the residuals of `jax.vjp`.

  The result is an upper bound, because a compiler may recompute some residuals.

  Args:
    loss: function `(params, batch) -> scalar`.
    params: arrays or `jax.ShapeDtypeStruct`s.
    batch_of: function from a number of rows to a batch of `jax.ShapeDtypeStruct`s.
    stream: shape (n, w) of the streams of a token.
    vocab_size: width of the logits.

  Returns:
    A `Kept`, in bytes of the whole function, not of a device.
  """
  one, two = (_residuals(loss, params, batch_of(rows)) for rows in (1, 2))
  fixed = one & two
  # A reshaped parameter (for example, layers in groups) takes no memory of its own.
  sizes = {(math.prod(p.shape), p.dtype) for p in jax.tree.leaves(params) if len(p.shape) > 1}

  def row(wanted: Callable[[Shape], bool]) -> int:
    return _bytes(two - fixed, wanted) - _bytes(one - fixed, wanted)

  return Kept(
    row=row(lambda shape: True),
    fixed=sum(
      _bytes({(shape, dtype): times})
      for (shape, dtype), times in fixed.items()
      if (math.prod(shape), dtype) not in sizes
    ),
    streams=row(lambda shape: len(shape) > 3 and shape[-2:] == stream),
    logits=row(lambda shape: shape[-1:] == (vocab_size,)),
  )


def _residuals(loss: Callable, params: Any, batch: Any) -> collections.Counter:
  """Counts the arrays that the vjp holds by (shape, dtype), without the arguments themselves."""

  def held(params: Any, batch: Any) -> list[jax.Array]:
    return jax.tree.leaves(jax.vjp(lambda p: loss(p, batch), params)[1])

  jaxpr = jax.make_jaxpr(held)(params, batch).jaxpr
  given = {*jaxpr.invars, *jaxpr.constvars}
  found = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)} - given
  return collections.Counter((v.aval.shape, v.aval.dtype) for v in found)


def _bytes(residuals: Any, wanted: Callable[[Shape], bool] = lambda shape: True) -> int:
  return sum(
    times * math.prod(shape) * dtype.itemsize
    for (shape, dtype), times in residuals.items()
    if wanted(shape)
  )
