"""Whether arms are paired: digests of what must be the same in every arm of a seed."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hc_jax.params import is_connection, named_leaves


def branch_digest(params: Any) -> str:
  """SHA-256 of all parameters but the connections': paths, shapes, dtypes and bits.

  Args:
    params: of one run, without partitioning metadata.
  """
  leaves = {path: leaf for path, leaf in named_leaves(params) if not is_connection(path)}
  return _digest(jax.device_get(leaves))


def batch_digest(batch: Mapping[str, Any]) -> str:
  """SHA-256 of a batch: names, shapes, dtypes and bits."""
  return _digest(batch)


def _digest(arrays: Mapping[str, Any]) -> str:
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()
