"""Gains, singular values and the use of streams, as pure functions; definitions in `DEFINITIONS`.

A mix `[..., n, n]` carries stream j (column) INTO stream i (row). All results are float64 and keep
the leading axes, which are those of the tokens.
"""

from collections.abc import Sequence

import numpy as np

# Printed beside the numbers: two of these carry one name in two papers, and differ.
DEFINITIONS = {
  "amax_fwd, amax_bwd": "max_i |sum_j P_ij|, max_j |sum_i P_ij|: |row|, |column sum| (2512.24880)",
  "norm_fwd, norm_bwd": "max_i sum_j |P_ij|, max_j sum_i |P_ij|: the inf- and the 1-norm",
  "comp_...": "the same of P = mix_K ... mix_k, from this site to the last one",
  "sigma_max, _min": "largest and smallest singular value of the site's mix",
  "|mix-I|": "Frobenius norm of mix minus identity",
  "effective_...": "exp of the entropy of shares: of |read|, |write|, ||stream||^2 (1 to n)",
  "stream_cosine": "mean cosine over pairs of different streams that the site reads",
  "similarity": "cosine of the site's input with the one before, median (2409.19606, Fig. 3)",
}


def amax_gain(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Forward and backward Amax gain: `max_i |sum_j P_ij|` and `max_j |sum_i P_ij|`, `[...]` each.

  The definition of mHC (arXiv 2512.24880, section 3): signs cancel. One for doubly stochastic
  matrices; zero for `[[1, -1], [-1, 1]]`, of which `norm_gain` is two.
  """
  p = np.asarray(matrix, np.float64)
  return np.abs(p.sum(-1)).max(-1), np.abs(p.sum(-2)).max(-1)


def norm_gain(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Forward and backward norm: `max_i sum_j |P_ij|` and `max_j sum_i |P_ij|`, `[...]` each.

  The operator norms of P for the largest entry, forward, and of its transpose, backward: what a
  signal and a gradient can grow by. At least `amax_gain`, and equal to it where P has one sign.
  """
  return amax_gain(np.abs(np.asarray(matrix, np.float64)))


def composites(mixes: Sequence[np.ndarray]) -> list[np.ndarray]:
  """`mix_K ... mix_k` for k = 1 .. K: from each site to the end (2512.24880, section 3).

  Args:
    mixes: `[..., n, n]` of the sites in order.

  Raises:
    ValueError: if the number of streams changes.
  """
  counts = sorted({mix.shape[-1] for mix in mixes})
  if len(counts) > 1:
    raise ValueError(f"sites have {counts} streams; take the composite of each segment by itself")
  found = []
  for mix in reversed(mixes):
    mix = np.asarray(mix, np.float64)
    found.append(found[-1] @ mix if found else mix)
  return found[::-1]


def singular_values(matrix: np.ndarray) -> np.ndarray:
  """The largest first, `[..., n]`."""
  return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def identity_distance(matrix: np.ndarray) -> np.ndarray:
  """Frobenius norm of `P - I`, `[...]`; `sqrt(n - 1)` for the mean over streams, J / n."""
  p = np.asarray(matrix, np.float64)
  return np.linalg.norm(p - np.eye(p.shape[-1]), axis=(-2, -1))


def effective_streams(weights: np.ndarray, axis: int = -1) -> np.ndarray:
  """`exp(H(p))` with `p = |weights| / sum |weights|`: n if all are equal, 1 if one has all.

  NaN where all weights are zero.
  """
  size = np.abs(np.asarray(weights, np.float64))
  total = size.sum(axis, keepdims=True)
  p = np.divide(size, total, out=np.full(size.shape, np.nan), where=total > 0)
  logs = np.log(p, out=np.zeros_like(p), where=p != 0)
  return np.exp(-(p * logs).sum(axis))


def energy_shares(streams: np.ndarray) -> np.ndarray:
  """`||x_i||^2 / sum_j ||x_j||^2` of streams `[..., n, w]`: `[..., n]`; NaN if all are zero."""
  energy = np.square(np.asarray(streams, np.float64)).sum(-1)
  total = energy.sum(-1, keepdims=True)
  return np.divide(energy, total, out=np.full(energy.shape, np.nan), where=total > 0)


def stream_cosine(streams: np.ndarray) -> np.ndarray:
  """Mean cosine over pairs of different streams, of `[..., n, w]`: `[...]`.

  One right after streams begin as copies. NaN for one stream, and where a stream is zero.
  """
  x = np.asarray(streams, np.float64)
  n = x.shape[-2]
  if n == 1:
    return np.full(x.shape[:-2], np.nan)
  norms = np.linalg.norm(x, axis=-1, keepdims=True)
  x = np.divide(x, norms, out=np.full(x.shape, np.nan), where=norms > 0)
  gram = x @ x.swapaxes(-1, -2)
  return (gram.sum((-2, -1)) - np.trace(gram, axis1=-2, axis2=-1)) / (n * (n - 1))
