"""Tests of gains, singular values and stream measures, on known matrices and streams."""

import numpy as np
import pytest

from hc_jax.analysis import spectra

N = 4
IDENTITY, MEAN = np.eye(N), np.full((N, N), 1 / N)
PERMUTATION = np.eye(N)[[1, 2, 0, 3]]


@pytest.mark.parametrize("matrix", [IDENTITY, MEAN, PERMUTATION], ids=["I", "J/n", "P"])
def test_doubly_stochastic_matrices_have_gain_one(matrix):
  for gain in (spectra.amax_gain, spectra.norm_gain):
    np.testing.assert_allclose(gain(matrix), (1, 1), atol=1e-15)


def test_the_two_definitions_differ_where_signs_cancel():
  matrix = np.array([[1.0, -1.0], [-1.0, 1.0]])
  assert spectra.amax_gain(matrix) == (0, 0)
  assert spectra.norm_gain(matrix) == (2, 2)


def test_forward_is_rows_and_backward_columns():
  matrix = np.array([[1.0, 2.0], [0.0, -4.0]])
  assert spectra.amax_gain(matrix) == (4, 2)
  assert spectra.norm_gain(matrix) == (4, 6)
  tokens = np.stack([matrix, matrix.T])
  np.testing.assert_array_equal(spectra.amax_gain(tokens), [[4, 2], [2, 4]])


def test_composites_run_from_each_site_to_the_last():
  first, second = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
  both, last = spectra.composites([first, second])
  np.testing.assert_array_equal(both, [[0, 1], [1, 2]])  # second @ first: first acts first
  np.testing.assert_array_equal(last, second)
  with pytest.raises(ValueError, match="streams"):
    spectra.composites([first, IDENTITY])


def test_singular_values_and_identity_distance():
  np.testing.assert_allclose(spectra.singular_values(IDENTITY), np.ones(N))
  np.testing.assert_allclose(spectra.singular_values(PERMUTATION), np.ones(N))
  np.testing.assert_allclose(spectra.singular_values(MEAN), [1, 0, 0, 0], atol=1e-15)
  assert spectra.identity_distance(IDENTITY) == 0
  assert spectra.identity_distance(MEAN) == pytest.approx(np.sqrt(N - 1))
  assert spectra.identity_distance(PERMUTATION) == pytest.approx(np.sqrt(6))


def test_effective_streams():
  weights = np.array([[1, -1, 1, 1], [0, 0, -5, 0], [2, 2, 0, 0], [0, 0, 0, 0]])
  np.testing.assert_allclose(spectra.effective_streams(weights), [4, 1, 2, np.nan], atol=1e-12)
  np.testing.assert_allclose(spectra.effective_streams(weights.T, axis=0)[:3], [4, 1, 2])


def test_stream_energy_and_cosine():
  x = np.array([3.0, 4.0])
  copies = np.stack([x, x, x])
  np.testing.assert_allclose(spectra.energy_shares(copies), np.full(3, 1 / 3))
  np.testing.assert_allclose(spectra.stream_cosine(copies), 1)
  uneven = np.stack([x, -2 * x, np.array([4.0, -3.0])])  # cosines -1, 0, 0
  np.testing.assert_allclose(spectra.energy_shares(uneven), np.array([1, 4, 1]) / 6)
  np.testing.assert_allclose(spectra.stream_cosine(uneven), -1 / 3)
  assert np.isnan(spectra.stream_cosine(x[None]))
  tokens = np.stack([copies, uneven])
  np.testing.assert_allclose(spectra.stream_cosine(tokens), [1, -1 / 3])
