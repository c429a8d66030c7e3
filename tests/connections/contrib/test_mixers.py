"""The mixers of `hc_jax.connections.contrib`: conformance, small matrices, special cases."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.connections.contrib import CayleyHC, ContinuousHC, NewtonHC, SpectralSphereHC
from hc_jax.connections.contrib.matrix_exponential import exponential
from hc_jax.connections.contrib.small_matrices import cayley, skew, solve
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.reference.mixers import balanced, flow
from tests.connections.contrib import rows

CASES = {
  "CayleyHC": functools.partial(CayleyHC),
  "ContinuousHC": functools.partial(ContinuousHC),
  "NewtonHC": functools.partial(NewtonHC),
  "SpectralSphereHC": functools.partial(SpectralSphereHC),
  "NewtonHC-3": functools.partial(NewtonHC, num_streams=3, bias_init="uniform"),
  "SpectralSphereHC-2": functools.partial(SpectralSphereHC, num_streams=2),
  "CayleyHC-8": functools.partial(CayleyHC, num_streams=8, norm_params=True),
  "ContinuousHC-1": functools.partial(ContinuousHC, num_streams=1),
}


@pytest.mark.parametrize("case, check", rows.of(CASES))
def test_conforms(case, check):
  rows.run(CASES, case, check)


def test_small_systems_are_solved():
  a = np.eye(4) + np.float32(skew(normal("a", 5, 6), 4))
  b = normal("b", 5, 4, 2)
  np.testing.assert_allclose(
    solve(jnp.asarray(a), jnp.asarray(b)), np.linalg.solve(a, b), rtol=2e-5, atol=1e-6
  )
  turned = np.float64(cayley(skew(3 * normal("large", 5, 6), 4)))
  np.testing.assert_allclose(
    turned @ turned.swapaxes(-1, -2), np.tile(np.eye(4), (5, 1, 1)), atol=2e-6
  )


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_projection_is_the_limit_of_sinkhorns_steps(scale):
  logits = scale * normal("logits", 7, 4, 4)
  mix = np.float64(jit(NewtonHC().mix_of)(logits.reshape(7, 16)))
  np.testing.assert_allclose(mix, balanced(np.float64(logits)), atol=3e-6 * max(1, scale))
  np.testing.assert_allclose(mix.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(mix.sum(-2), 1, atol=1e-4)


def test_its_gradient_is_that_of_implicit_sinkhorn():
  logits, weights = normal("logits", 7, 16), normal("weights", 7, 4, 4)
  sinkhorn = hc.MHC(sinkhorn_steps=300, sinkhorn_gradient="implicit")
  found, want = (
    jit(jax.grad(lambda z, m=module: jnp.sum(m.mix_of(z) * weights)))(logits)
    for module in (NewtonHC(), sinkhorn)
  )
  np.testing.assert_allclose(found, want, atol=1e-5)


def test_zero_logits_are_the_identity():
  for module in (CayleyHC(), ContinuousHC()):
    mix = module.mix_of(jnp.zeros((2, module.num_mix_logits())))
    np.testing.assert_array_equal(mix, np.tile(np.eye(4, dtype=np.float32), (2, 1, 1)))


def test_the_exponential_is_exact_to_what_it_says():
  a = skew(normal("a", 5, 6), 4)
  a = 4 * a / np.linalg.norm(a, 2, axis=(-2, -1), keepdims=True)
  got = np.float64(exponential(a))
  np.testing.assert_allclose(got @ got.swapaxes(-1, -2), np.tile(np.eye(4), (5, 1, 1)), atol=2e-5)
  z = normal("z", 3, ContinuousHC().num_mix_logits())
  np.testing.assert_allclose(ContinuousHC().mix_of(z), flow(np.float64(z), 4), atol=5e-6)


def test_importing_the_table_gives_them_names():
  before = dict(hc.CONNECTIONS)
  try:
    from hc_jax.connections.contrib import table

    importlib.reload(table)  # another test may have imported it
    assert set(table.VARIANTS) <= set(hc.CONNECTIONS) - set(before)
    made = hc.make_connection("cayley", {"num_streams": 3})()
    assert isinstance(made, CayleyHC) and made.num_mix_logits() == 3
  finally:
    hc.CONNECTIONS.clear()
    hc.CONNECTIONS.update(before)


@pytest.mark.parametrize("scale", [5.0, 10.0, 60.0])
def test_large_logits_stay_finite_balanced_and_small(scale):
  logits, weights = scale * normal("large", 500, 16), normal("weights", 500, 4, 4)
  mix = np.float64(jit(NewtonHC().mix_of)(logits))
  assert np.abs(mix.sum(-1) - 1).max() < 1e-6
  assert np.mean(np.abs(mix.sum(-2) - 1).max(-1) < 1e-4) > 0.99
  grads = jit(jax.grad(lambda z: jnp.sum(NewtonHC().mix_of(z) * weights)))(logits)
  assert np.all(np.isfinite(grads))
  flows = jit(ContinuousHC().mix_of)(min(scale, 10) * normal("flow", 500, 34))
  assert np.linalg.norm(np.float64(flows), 2, axis=(-2, -1)).max() < 1 + 1e-5
