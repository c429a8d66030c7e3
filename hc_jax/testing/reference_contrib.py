"""Connections of `hc_jax.connections.contrib` in float64 NumPy, each from what its source does.

Complex numbers pass through, as in `reference_gated`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from hc_jax.connections import Connection
from hc_jax.connections.contrib import PartitionedHC
from hc_jax.testing.reference import Matrices

Params = Mapping[str, np.ndarray]
Site = Callable[[np.ndarray], Matrices]


def partitioned(connection: PartitionedHC, params: Params, index: int) -> Site:
  """modded-nanogpt's two lanes, read off what becomes of each of them."""
  blocks = connection.num_sites // 2
  start = connection.first_block
  start = int(7 / 11 * blocks + 1e-9) if start is None else start
  resid_lambda, post = params["mix_scale"][0], list(params["static_write"])
  if index // 2 < start:
    post[1] = post[0]

  def lanes(lane0: np.ndarray, lane1: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.stack([resid_lambda * lane0 + post[0] * out, resid_lambda * lane1 + post[1] * out])

  one, none = np.array([1.0, 0.0]), np.zeros(2)
  reads = one if index % 2 == 0 else 1 - one
  A_r = lanes(one, 1 - one, none).T  # column s is what lane s becomes
  B = lanes(np.zeros(1), np.zeros(1), np.ones(1)).T
  A_m = np.tile(reads[:, None], (1, connection.num_views))
  return lambda H: Matrices(A_m=A_m, A_r=A_r, B=B)


REFERENCES: dict[type[Connection], Callable[..., Site]] = {PartitionedHC: partitioned}
