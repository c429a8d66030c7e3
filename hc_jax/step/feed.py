"""Batches from the host to the devices."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hc_jax import sharding
from hc_jax.errors import UserError


def to_devices(batch: Any, mesh: Mesh) -> Any:
  """Returns this process's rows of a batch as global arrays, split over the mesh.

  Args:
    batch: tree of host arrays `[rows, ...]`.
    mesh: a mesh of `hc_jax.sharding.make_mesh`.

  Raises:
    UserError: if a leaf has no axis of rows, leaves differ in their number of rows, or that number
      does not divide over the mesh.
  """
  where = sharding.batch_sharding(mesh)
  _check(batch, mesh)
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(where, np.asarray(leaf)), batch
  )


def _check(batch: Any, mesh: Mesh) -> None:
  leaves = jax.tree_util.tree_leaves_with_path(batch)
  rows = {jax.tree_util.keystr(path): np.shape(leaf)[:1] for path, leaf in leaves}
  local = _local_shards(mesh)
  for name, found in rows.items():
    if not found:
      raise UserError(f"batch{name} is a scalar; every leaf of a batch is an array [rows, ...]")
    if found != next(iter(rows.values())):
      raise UserError(
        f"batch{name} has {found[0]} rows and batch{next(iter(rows))} "
        f"{next(iter(rows.values()))[0]}; every leaf of a batch has the same number"
      )
    if found[0] % local:
      raise UserError(
        f"the {found[0]} rows of batch{name} do not divide over {local} devices; make batches of a "
        f"multiple of {local} rows"
      )


@functools.cache  # asked for every batch, and a mesh may have thousands of devices
def _local_shards(mesh: Mesh) -> int:
  """Returns the number of parts into which the rows of a process are split."""
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  return max(1, shards // len({device.process_index for device in mesh.devices.flat}))
