"""The loss in parts equals the loss at once, and never holds the logits of the whole batch."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hc_jax import models
from hc_jax.step.loss import LARGE, batch_nats, parts_of
from hc_jax.testing.compiled import jit


@functools.cache
def task(tie_embeddings=True, vocab_size=48):
  model = models.TransformerLM(
    vocab_size=vocab_size,
    d_model=8,
    num_layers=1,
    num_heads=2,
    scan=False,
    dropout=0.3,
    tie_embeddings=tie_embeddings,
    init_std=0.5,
  )
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, vocab_size, (2, 13), np.int32)
  batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
  batch["mask"] = (rng.random((2, 12)) < 0.8).astype(np.float32)
  batch["segment_ids"] = np.repeat([[1, 2]], 6, axis=1).repeat(2, axis=0).astype(np.int32)
  params = jit(model.init)(jax.random.key(0), batch["inputs"])["params"]
  return model, params, batch


@pytest.mark.slow
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_parts_give_the_same_nats_and_gradients(tie_embeddings):
  model, params, batch = task(tie_embeddings)

  def run(parts):
    def loss(params):
      nats = batch_nats(model, params, batch, jax.random.key(3), parts)
      return jnp.sum(nats * jnp.arange(12)[None]), nats

    return jit(jax.value_and_grad(loss, has_aux=True))(params)

  (whole, nats), grads = run(1)
  (parts, nats_of_parts), grads_of_parts = run(3)
  assert float(whole) > 1
  np.testing.assert_allclose(parts, whole, rtol=1e-6)
  np.testing.assert_allclose(nats_of_parts, nats, rtol=2e-6, atol=2e-6)
  chex.assert_trees_all_close(grads_of_parts, grads, rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("optimised")
def test_parts_never_hold_all_logits():
  """Compares temporary memory of the compiled gradient, with a vocabulary of 8,192."""
  model, params, batch = task(vocab_size=8192)

  def temporary(parts):
    grad = jax.grad(lambda p: jnp.sum(batch_nats(model, p, batch, None, parts)))
    return jax.jit(grad).lower(params).compile().memory_analysis().temp_size_in_bytes

  logits = 4 * batch["inputs"].size * 8192
  assert temporary(1) > 1.5 * logits
  assert temporary(6) < temporary(1) - logits


def test_the_fewest_parts_that_fit():
  assert parts_of(128, 128 * 16 * 257) == 1
  assert parts_of(1024, LARGE) == 1
  assert parts_of(1024, LARGE + 1) == 2
  assert parts_of(6, 4 * LARGE) == 6  # 4 and 5 do not divide 6
  assert parts_of(7, 100 * LARGE) == 7
  assert parts_of(1024, 1, wanted=8) == 8
