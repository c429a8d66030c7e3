"""Gains, singular values and the use of streams, as pure functions of NumPy arrays.

`DEFINITIONS` has the definitions that are printed. A mix `[..., n, n]` carries stream j (column)
INTO stream i (row). All results are float64 and keep the leading axes, the token axes.
"""

from collections.abc import Sequence

import numpy as np

# Printed with the numbers, because two papers use one name for two different definitions.
DEFINITIONS = {
  "amax_fwd, amax_bwd": "max_i |sum_j P_ij|, max_j |sum_i P_ij|: |row|, |column sum| (2512.24880)",
  "norm_fwd, norm_bwd": "max_i sum_j |P_ij|, max_j sum_i |P_ij|: the inf- and the 1-norm",
  "comp_...": "the same for P = mix_K ... mix_k, from this site to the last one",
  "sigma_max, _min": "largest and smallest singular value of the site's mix",
  "|mix-I|": "Frobenius norm of mix minus identity",
  "effective_...": "exp of the entropy of shares: of |read|, |write|, ||stream||^2 (1 to n)",
  "stream_cosine": "mean cosine over pairs of different streams that the site reads",
  "similarity": "cosine of the site's input with the one before, median (2409.19606, Fig. 3)",
}


def amax_gain(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Computes the Amax gains: `max_i |sum_j P_ij|` (forward) and `max_j |sum_i P_ij|` (backward).

  This is the definition of mHC (arXiv 2512.24880, section 3), in which signs cancel. It is one for
  doubly stochastic matrices. It is zero for `[[1, -1], [-1, 1]]`, while `norm_gain` gives two.

  Args:
    matrix: `[..., n, n]`.

  Returns:
    `(forward, backward)`, float64 `[...]` each.
  """
  p = np.asarray(matrix, np.float64)
  return np.abs(p.sum(-1)).max(-1), np.abs(p.sum(-2)).max(-1)


def norm_gain(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Computes the norm gains: `max_i sum_j |P_ij|` (forward) and `max_j sum_i |P_ij|` (backward).

  They are the operator norms, for the largest entry, of P and of its transpose: bounds on the
  growth of a signal and of a gradient. They are at least `amax_gain`, and equal if all entries of P
  have one sign.

  Args:
    matrix: `[..., n, n]`.

  Returns:
    `(forward, backward)`, float64 `[...]` each.
  """
  return amax_gain(np.abs(np.asarray(matrix, np.float64)))


def composites(mixes: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Computes the product of mixes from each site to the last (arXiv 2512.24880, section 3).

  Args:
    mixes: K mixes `[..., n, n]`, in the order of the sites.

  Returns:
    K products `[..., n, n]` float64; entry k is `mixes[K - 1] @ ... @ mixes[k]`.

  Raises:
    ValueError: if the mixes differ in n.
  """
  counts = sorted({mix.shape[-1] for mix in mixes})
  if len(counts) > 1:
    raise ValueError(f"sites have {counts} streams; take the composite of each segment separately")
  found = []
  for mix in reversed(mixes):
    mix = np.asarray(mix, np.float64)
    found.append(found[-1] @ mix if found else mix)
  return found[::-1]


def singular_values(matrix: np.ndarray) -> np.ndarray:
  """Returns the singular values `[..., n]` of `[..., n, n]`, the largest first."""
  return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def identity_distance(matrix: np.ndarray) -> np.ndarray:
  """Computes the Frobenius norm of `P - I`, `[...]`, for P of `[..., n, n]`.

  It is `sqrt(n - 1)` for the matrix that averages the streams (all entries 1 / n).
  """
  p = np.asarray(matrix, np.float64)
  return np.linalg.norm(p - np.eye(p.shape[-1]), axis=(-2, -1))


def effective_streams(weights: np.ndarray, axis: int = -1) -> np.ndarray:
  """Computes the effective number of streams, `exp(H(p))` with `p = |weights| / sum |weights|`.

  H is the entropy over `axis`. The result is n if all weights are equal in size, 1 if one weight
  has all, and NaN where all weights are zero. It has the shape of `weights` without `axis`.
  """
  size = np.abs(np.asarray(weights, np.float64))
  total = size.sum(axis, keepdims=True)
  p = np.divide(size, total, out=np.full(size.shape, np.nan), where=total > 0)
  logs = np.log(p, out=np.zeros_like(p), where=p != 0)
  return np.exp(-(p * logs).sum(axis))


def energy_shares(streams: np.ndarray) -> np.ndarray:
  """Computes the energy shares `||x_i||^2 / sum_j ||x_j||^2`, `[..., n]`, of `[..., n, w]`.

  Shares are NaN where all streams are zero.
  """
  energy = np.square(np.asarray(streams, np.float64)).sum(-1)
  total = energy.sum(-1, keepdims=True)
  return np.divide(energy, total, out=np.full(energy.shape, np.nan), where=total > 0)


def stream_cosine(streams: np.ndarray) -> np.ndarray:
  """Computes the mean cosine over pairs of different streams, `[...]`, of `[..., n, w]`.

  It is one if all streams are copies, and NaN if n is 1 or a stream is zero.
  """
  x = np.asarray(streams, np.float64)
  n = x.shape[-2]
  if n == 1:
    return np.full(x.shape[:-2], np.nan)
  norms = np.linalg.norm(x, axis=-1, keepdims=True)
  x = np.divide(x, norms, out=np.full(x.shape, np.nan), where=norms > 0)
  gram = x @ x.swapaxes(-1, -2)
  return (gram.sum((-2, -1)) - np.trace(gram, axis1=-2, axis2=-1)) / (n * (n - 1))
