"""mHC-lite: weights of permutations."""

import itertools

import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import normal


def test_goldens_at_init():
  connection = hc.MHCLite()
  bias = np.asarray(connection.mix_bias())
  assert bias.shape == (24,) and bias[0] == 0 and np.all(bias[1:] == -8)
  mix = np.asarray(connection.mix_of(bias), np.float64)
  np.testing.assert_allclose(mix, 0.994008 * np.eye(4) + 0.0019974 * (1 - np.eye(4)), atol=1e-6)
  assert np.linalg.svd(mix)[1][1] == pytest.approx(0.992011, abs=1e-6)
  np.testing.assert_allclose(connection.mix_of(np.zeros(24)), np.full((4, 4), 0.25), atol=1e-7)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_rows_and_columns_are_exact_for_any_logits(n):
  connection = hc.MHCLite(num_streams=n)
  for size in (1, 30):
    logits = size * normal("logits", 20, connection.num_mix_logits())
    mix = np.asarray(connection.mix_of(logits))
    assert np.abs(mix.sum(-1) - 1).max() < 1e-6 > np.abs(mix.sum(-2) - 1).max()
    assert mix.min() >= 0 and np.linalg.norm(mix, 2, axis=(-2, -1)).max() < 1 + 1e-6


def test_one_logit_is_one_permutation_in_the_order_of_itertools():
  """`(P_r X)[i] = X[perm_r[i]]`: no permutation of the list is its own transpose throughout."""
  connection, streams = hc.MHCLite(), normal("streams", 4, 8)
  for r, permutation in enumerate(itertools.permutations(range(4))):
    mix = np.asarray(connection.mix_of(100 * np.eye(24, dtype=np.float32)[r]))
    np.testing.assert_array_equal(mix @ streams, streams[list(permutation)])


def test_too_many_permutations_are_counted():
  with pytest.raises(ValueError, match="120 permutations"):
    hc.MHCLite(num_streams=5).check()
  with pytest.raises(hc.UserError, match="40320 permutations per token; choose"):
    hc.make_connection("mhc_lite", {"num_streams": 8})
