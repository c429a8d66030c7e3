"""KromHC: Kronecker products of 2 x 2 mixes."""

import functools

import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import normal


def test_goldens_at_init():
  connection = hc.KromHC()
  mix = np.asarray(connection.mix_of(connection.mix_bias()), np.float64)
  np.testing.assert_allclose(mix[0], [0.999329, 0.000335, 0.000335, 1.1e-7], atol=5e-7)
  np.testing.assert_allclose(np.linalg.svd(mix)[1], [1, 0.999329, 0.999329, 0.998659], atol=1e-6)
  p = np.asarray(hc.KromHC(num_streams=2).mix_of(np.float32([0, -8])))[0, 0]
  assert p == pytest.approx(0.9996646, abs=1e-7)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_it_is_the_kronecker_product_last_factor_first(n):
  connection = hc.KromHC(num_streams=n)
  logits = 2 * normal("logits", 3, connection.num_mix_logits())
  stay = 1 / (1 + np.exp(logits[:, 1::2].astype(np.float64) - logits[:, ::2]))
  got = np.asarray(connection.mix_of(logits))
  for token in range(3):
    factors = [np.array([[p, 1 - p], [1 - p, p]]) for p in stay[token]]
    np.testing.assert_allclose(got[token], functools.reduce(np.kron, factors[::-1]), atol=1e-6)
    kept = np.sort(functools.reduce(np.kron, [[1, 2 * p - 1] for p in stay[token]]))
    np.testing.assert_allclose(np.linalg.eigvalsh(got[token]), kept, atol=2e-6)
  assert np.abs(got.sum(-1) - 1).max() < 1e-6 > np.abs(got.sum(-2) - 1).max()
  np.testing.assert_allclose(got[0] @ got[1], got[1] @ got[0], atol=1e-6)  # they commute


def test_the_first_factor_exchanges_neighbours():
  mix = hc.KromHC().mix_of(np.float32([-50, 50, 50, -50]))
  np.testing.assert_array_equal(mix, np.eye(4)[[1, 0, 3, 2]])


def test_two_streams_are_those_of_mhc_lite():
  logits = 3 * normal("logits", 7, 2)
  np.testing.assert_allclose(
    hc.KromHC(num_streams=2).mix_of(logits), hc.MHCLite(num_streams=2).mix_of(logits), atol=1e-7
  )
  krom, lite = hc.KromHC(num_streams=2), hc.MHCLite(num_streams=2)
  np.testing.assert_array_equal(krom.mix_bias(), lite.mix_bias())
  assert krom.num_params(8) == lite.num_params(8)


def test_no_power_of_two_is_refused():
  with pytest.raises(ValueError, match="choose num_streams=4 or 8"):
    hc.KromHC(num_streams=6).check()
