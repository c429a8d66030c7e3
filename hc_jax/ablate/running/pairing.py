"""Digests of initial parameters and batches, which must be equal in all arms of a seed."""

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hc_jax.params import is_connection, named_leaves


def branch_digest(params: Any) -> str:
  """Returns the SHA-256 of all parameters outside connections: paths, shapes, dtypes and bits.

  Args:
    params: parameters of one run, without partitioning metadata.
  """
  leaves = {path: leaf for path, leaf in named_leaves(params) if not is_connection(path)}
  return _digest(jax.device_get(leaves))


def batch_digest(batch: Any) -> str:
  """Returns the SHA-256 of a batch: names, shapes, dtypes and bits."""
  leaves = jax.tree_util.tree_leaves_with_path(batch)
  name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  return _digest({name(path): leaf for path, leaf in leaves})


def branch_digests(params: Any, count: int) -> list[str]:
  """Returns the `branch_digest` of each of `count` runs whose parameters are stacked in front."""
  host = jax.device_get(params)
  return [branch_digest(jax.tree.map(lambda leaf, i=i: leaf[i], host)) for i in range(count)]


def _digest(arrays: Mapping[str, Any]) -> str:
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
