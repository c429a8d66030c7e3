"""Batches from the data to the devices, prepared ahead of the step that takes them."""

import collections
import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hc_jax import sharding

FIELDS = ("inputs", "targets", "mask", "segment_ids")


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """A host's rows of a batch as global arrays, split over the mesh."""
  where = sharding.batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(where, np.asarray(batch[name]))
    for name in FIELDS
    if name in batch
  }


def prefetch(
  batches: Sequence[Any], start: int, stop: int, workers: int
) -> Iterator[dict[str, np.ndarray]]:
  """`batches[start]`, ..., `batches[stop - 1]`, in order, made by threads ahead of time.

  A batch is a pure function of its index, so neither the number of workers nor where a run
  was interrupted changes one.

  Args:
    batches: indexed by step.
    start: the first index.
    stop: one past the last.
    workers: threads; 0 makes each batch when it is asked for.
  """
  if workers <= 0:
    yield from (batches[i] for i in range(start, stop))
    return
  with concurrent.futures.ThreadPoolExecutor(workers, "batches") as pool:
    ahead: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
      for i in range(start, stop):
        while len(ahead) < workers + 1 and i + len(ahead) < stop:
          ahead.append(pool.submit(batches.__getitem__, i + len(ahead)))
        yield ahead.popleft().result()
    finally:
      for future in ahead:
        future.cancel()
