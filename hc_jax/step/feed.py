"""Batches from the host to the devices."""

import jax
import numpy as np
from jax.sharding import Mesh

from hc_jax import sharding

FIELDS = ("inputs", "targets", "mask", "segment_ids")


def to_devices(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This process's rows of a batch as global arrays, split over the mesh."""
  where = sharding.batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(where, np.asarray(batch[name]))
    for name in FIELDS
    if name in batch
  }
