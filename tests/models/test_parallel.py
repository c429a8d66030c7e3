"""The modules under jit, vmap and pmap, on eight forced CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hc_jax.testing.compiled import jit, normal, options
from tests.models import tiny

SEEDS = 3
MODEL = tiny.model(num_layers=1, scan=False)
TOKENS = np.random.default_rng(1).integers(0, tiny.VOCAB, (8, tiny.LENGTH)).astype(np.int32)
WEIGHTS = normal("weights", 1, tiny.LENGTH, tiny.VOCAB)


def loss(params, tokens):
  return jnp.mean(jnp.sin(WEIGHTS * MODEL.apply({"params": params}, tokens)))


def test_the_compiled_forward_serves_every_batch_of_its_shape():
  forward = jit(MODEL.apply)
  for seed in range(3):
    forward({"params": tiny.params(MODEL, seed=seed)}, (TOKENS + seed) % tiny.VOCAB)
  assert forward._cache_size() == 1


def test_vmap_over_parameters_is_a_loop():
  trees = [tiny.params(MODEL, seed=seed) for seed in range(SEEDS)]
  stacked = jax.tree.map(lambda *a: np.stack(a), *trees)
  one = jit(MODEL.apply)
  all_at_once = jit(jax.vmap(lambda p: MODEL.apply({"params": p}, TOKENS)))(stacked)
  for tree, found in zip(trees, all_at_once, strict=True):
    np.testing.assert_allclose(found, one({"params": tree}, TOKENS), rtol=1e-4, atol=1e-5)


def test_pmap_with_averaged_gradients_is_the_whole_batch():
  if jax.local_device_count() < 8:
    pytest.skip("needs eight devices; tests/conftest.py forces them on CPU")
  params = tiny.params(MODEL)

  def step(params, tokens):
    grads = jax.grad(loss)(params, tokens)
    return jax.lax.pmean(grads, "devices"), grads

  step = jax.pmap(step, axis_name="devices", in_axes=(None, 0))
  step = step.lower(params, TOKENS[:, None]).compile(options())
  averaged, own = step(params, TOKENS[:, None])
  whole = jit(jax.grad(loss))(params, TOKENS)

  def check(path, found, single, expected):
    name = jax.tree_util.keystr(path)
    scale = np.abs(expected).max()
    for device in range(8):
      np.testing.assert_allclose(
        np.asarray(found)[device], expected, rtol=1e-3, atol=1e-4 * scale, err_msg=name
      )
    assert np.asarray(single).std(axis=0).max() > 1e-3 * scale, name  # they had differed

  jax.tree_util.tree_map_with_path(check, averaged, own, whole)
