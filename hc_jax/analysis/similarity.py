"""Similarity of the inputs of adjacent layers: arXiv 2409.19606, Figure 3.

In a Pre-Norm network the state grows, but each layer adds about the same amount. Deep layers then
all see nearly the same input (representation collapse), and their similarity is near one.
"""

import itertools
from collections.abc import Sequence

import numpy as np

PERCENTILES = (5.0, 50.0, 95.0)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Computes `a . b / (|a| |b|)` over the last axis, float64 `[...]`; NaN where either is zero."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  dots = np.sum(a * b, axis=-1)
  return np.divide(dots, norms, out=np.full(dots.shape, np.nan), where=norms > 0)


def adjacent_similarity(branch_inputs: Sequence[np.ndarray]) -> np.ndarray:
  """Computes the cosine of each layer's input with the input of the layer before it.

  Args:
    branch_inputs: branch inputs of the K sublayers in order, `[tokens..., d]` each, before the
      branch's norm. For a site with several views, pass one view or their mean.

  Returns:
    `[K - 1, 3]` float64: 5th percentile, median and 95th percentile over all tokens. Row k compares
    the inputs of sublayers k and k + 1, counted from 0.
  """
  rows = []
  for before, after in itertools.pairwise(branch_inputs):
    rows.append(np.nanpercentile(cosine(before, after), PERCENTILES))
  return np.array(rows).reshape(-1, len(PERCENTILES))
