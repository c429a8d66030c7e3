"""Sums over a fixed, ordered set of batches."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from hc_jax.step.feed import to_devices


def batch_sums(
  step: Callable[[Any, Any], Mapping[str, jax.Array]],
  variables: Any,
  batches: Iterable[Any],
  mesh: Mesh,
) -> list[dict[str, Any]]:
  """Returns the sums of each batch, on the host.

  Args:
    step: jitted function `(variables, batch) -> sums`.
    variables: variables of the model.
    batches: the batches, in order.
    mesh: mesh over which the batches are split.
  """
  sums = [step(variables, to_devices(batch, mesh)) for batch in batches]  # all launched, then read
  return jax.device_get(sums)


def totals(sums: Iterable[Mapping[str, Any]]) -> dict[str, float]:
  """Returns the sums over all batches, added in float64: the order does not matter."""
  sums = list(sums)
  return {name: math.fsum(float(one[name]) for one in sums) for name in sums[0]}
