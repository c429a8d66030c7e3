"""Tests of cosines, with vectors whose angle is known."""

import numpy as np

from hc_jax.analysis.similarity import adjacent_similarity, cosine


def test_cosine_of_known_angles():
  a = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
  b = np.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [1.0, 0.0]])
  np.testing.assert_allclose(cosine(a, b), [1, 0, -np.sqrt(0.5), np.nan], atol=1e-15)


def test_percentiles_over_tokens_of_neighbours():
  angles = np.arccos(np.linspace(0, 1, 101))  # cosines 0, 0.01, ... 1
  turned = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(1, 101, 2)
  straight = np.broadcast_to([2.0, 0.0], turned.shape)
  found = adjacent_similarity([straight, turned, turned * 7])
  np.testing.assert_allclose(found, [[0.05, 0.5, 0.95], [1, 1, 1]], atol=1e-12)
  assert adjacent_similarity([turned]).shape == (0, 3)
