"""oHC: rotations of four streams by a pair of quaternions."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal

GOLDEN = [  # of logits 0.1 k, k = 1 .. 8
  [0.971061, 0.168880, 0.101328, 0.135104],
  [-0.135104, 0.523528, -0.489752, 0.683965],
  [-0.168880, 0.759961, 0.599524, -0.185768],
  [-0.101328, -0.346204, 0.624856, 0.692409],
]
mix_of = jit(hc.OrthogonalHC().mix_of)


def test_goldens():
  np.testing.assert_allclose(mix_of(0.1 * np.arange(1, 9, dtype=np.float32)), GOLDEN, atol=1e-6)
  eye = np.eye(4, dtype=np.float32)
  np.testing.assert_array_equal(mix_of(np.zeros(8, np.float32)), eye)
  np.testing.assert_array_equal(mix_of(np.float32([-2, 0, 0, 0, 0, 0, 0, 0])), -eye)
  # q = i, r = -i: 1 and i change their sign, j and k do not
  turned = mix_of(np.float32([-1, 1, 0, 0, -1, -1, 0, 0]))
  np.testing.assert_array_equal(turned, np.diag(np.float32([-1, -1, 1, 1])))


@pytest.mark.parametrize("size", [0.1, 1, 100])
def test_it_is_a_rotation(size):
  mix = np.asarray(mix_of(size * normal("logits", 50, 8)), np.float64)
  np.testing.assert_allclose(mix @ mix.swapaxes(-1, -2), np.tile(np.eye(4), (50, 1, 1)), atol=1e-6)
  np.testing.assert_allclose(np.linalg.det(mix), np.ones(50), atol=1e-6)


def test_at_zero_there_are_six_directions():
  """dim SO(4); the real parts only change lengths."""
  zero = np.zeros(8, np.float32)
  change = np.asarray(jit(jax.jacfwd(hc.OrthogonalHC().mix_of))(zero)).reshape(16, 8)
  assert np.linalg.matrix_rank(change, tol=1e-5) == 6
  assert not np.any(change[:, [0, 4]])


def test_the_quaternion_zero_is_finite():
  lost = np.float32([-1, 0, 0, 0, -1, 0, 0, 0])
  assert np.all(np.isfinite(mix_of(lost)))
  assert np.all(np.isfinite(jit(jax.jacrev(hc.OrthogonalHC().mix_of))(lost)))


@pytest.mark.parametrize("trained", [False, True])
def test_the_scale_of_the_mix_is_frozen_unless_asked_for(trained):
  connection = hc.OrthogonalHC(train_mix_scale=trained, gate_scale_init=0.5)
  streams = normal("streams", 3, 4, 8)
  params = nn.unbox(jit(connection.init)(jax.random.key(0), streams, 0))["params"]
  assert ("mix_scale" in params) == trained
  assert params["mix_bias"].shape == (8,)  # the paper's other eight are unused
  half = jit(lambda p: connection.apply({"params": p}, streams, 0)[1].mix)(params)
  other = hc.OrthogonalHC(train_mix_scale=True)
  params = {**params, "mix_scale": np.float32([0.5])}
  same = jit(lambda p: other.apply({"params": p}, streams, 0)[1].mix)(params)
  np.testing.assert_allclose(half, same, atol=1e-7)
  params = {**params, "mix_scale": np.float32([0.25])}
  less = jit(lambda p: other.apply({"params": p}, streams, 0)[1].mix)(params)
  assert np.abs(np.asarray(less - half)).max() > 1e-3


def test_other_numbers_of_streams_are_refused():
  with pytest.raises(ValueError, match="num_streams=3; choose num_streams=4"):
    hc.OrthogonalHC(num_streams=3).check()
  hc.OrthogonalHC(num_streams=1).check()
