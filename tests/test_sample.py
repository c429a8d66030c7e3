"""Tests that sampling follows the uncached model's probabilities, and refuses wrong options."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import sample

VOCAB = 11


@functools.cache
def model_and_params(scan=True):
  model = hc.models.TransformerLM(
    vocab_size=VOCAB, d_model=16, num_layers=2, num_heads=2, max_length=32, init_std=0.3, scan=scan
  )
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
  return model, nn.unbox(variables)["params"]


def run(prompt, num_tokens, seed=0, **settings):
  model, params = model_and_params()
  steps = sample.generate(
    model, params, np.asarray(prompt, np.int32), num_tokens, key=jax.random.key(seed), **settings
  )
  return np.stack(list(steps), axis=1)


@pytest.mark.parametrize(
  "length", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in (5, 16, 17))]
)
def test_greedy_is_the_uncached_argmax(length):
  """17 tokens are padded to 32, the model's maximum; the padding must not be seen."""
  model, params = model_and_params()
  prompt = np.random.RandomState(0).randint(0, VOCAB, (2, length))
  out = run(prompt, 8, temperature=0)
  tokens = np.concatenate([prompt, out], axis=1)
  logits = jax.jit(model.apply)({"params": params}, jnp.asarray(tokens))
  np.testing.assert_array_equal(out, np.argmax(logits, -1)[:, length - 1 : -1])


@pytest.mark.slow
def test_draws_follow_the_probabilities():
  """Compares 4,000 draws of the next token with the softmax of the uncached logits."""
  model, params = model_and_params()
  prompt = np.tile([[1, 2, 3]], (4000, 1))
  logits = model.apply({"params": params}, jnp.asarray(prompt[:1]))[0, -1]
  for temperature in (0.5, 2.0):
    drawn = run(prompt, 1, temperature=temperature)[:, 0]
    expected = np.asarray(jax.nn.softmax(logits / temperature))
    frequency = np.bincount(drawn, minlength=VOCAB) / len(drawn)
    np.testing.assert_allclose(frequency, expected, atol=4 * np.sqrt(0.25 / len(drawn)))


def test_top_k_and_top_p_keep_the_likeliest():
  logits = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3]]))
  keys = jax.random.split(jax.random.key(0), 500)

  def kept(**settings):
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **settings}
    drawn = jax.vmap(lambda key: sample._draw(key, logits, **full)[0])(keys)
    return set(np.asarray(drawn).tolist())

  assert kept() == {0, 1, 2, 3}
  assert kept(top_k=1) == {1}
  assert kept(top_k=2) == {1, 3}
  assert kept(top_k=99) == {0, 1, 2, 3}
  assert kept(top_p=0.45) == {1}  # because the first token alone reaches it
  assert kept(top_p=0.55) == {1, 3}
  assert kept(top_p=0.81) == {1, 2, 3}
  assert kept(temperature=0) == {1}


def test_the_seed_decides():
  prompt = [[1, 2, 3]]
  np.testing.assert_array_equal(run(prompt, 10, seed=1), run(prompt, 10, seed=1))
  assert np.any(run(prompt, 10, seed=1) != run(prompt, 10, seed=2))


def test_every_token_of_every_sample_is_drawn_by_itself(monkeypatch):
  """Tokens are equally likely at each of 12 steps of 8 samples; a shared key would repeat them."""
  uniform = jnp.zeros((8, VOCAB))
  programs = (lambda *_: (uniform, None), lambda *_: (uniform, None))
  monkeypatch.setattr(sample, "_programs", lambda model: programs)
  drawn = run(np.ones((8, 1)), 12)
  assert len({row.tobytes() for row in drawn}) == 8, "samples share their draws"
  assert len({column.tobytes() for column in drawn.T}) == 12, "tokens share their draws"
  np.testing.assert_array_equal(run(np.ones((8, 1)), 5), drawn[:, :5])
  assert np.mean(run(np.ones((8, 1)), 12, seed=1) == drawn) < 0.4


def test_two_programs_whatever_the_number_of_tokens():
  model, _ = model_and_params()
  run([[1, 2, 3]], 4)
  prefill, decode = sample._programs(model)
  before = prefill._cache_size(), decode._cache_size()
  run([[3, 2, 1]], 20)
  assert (prefill._cache_size(), decode._cache_size()) == before


@pytest.mark.parametrize(
  "prompt, num_tokens, settings, words",
  [
    (np.zeros((1, 0)), 4, {}, "prompt is empty"),
    ([[1] * 30], 4, {}, "at most 2"),
    ([[1]], -1, {}, "num_tokens"),
    ([[1]], 4, {"temperature": -1.0}, "temperature"),
    ([[1]], 4, {"top_k": -1}, "top_k"),
    ([[1]], 4, {"top_p": 0.0}, "top_p"),
    ([[1]], 4, {"top_p": 1.5}, "top_p"),
    ([[1]], 4, {"temperature": float("nan")}, "temperature=nan must be a finite number"),
    ([[1]], 4, {"temperature": float("inf")}, "temperature=inf must be a finite number"),
    ([[1]], 4, {"top_p": float("nan")}, "top_p=nan must be a finite number"),
    ([[1]], 4, {"top_k": 10**20}, "top_k=.* must be at most"),
  ],
)
def test_what_makes_no_sense_is_refused(prompt, num_tokens, settings, words):
  with pytest.raises(hc.UserError, match=words):
    run(prompt, num_tokens, **settings)


@pytest.mark.parametrize("settings", [{"seed": 10**20}, {"seed": -1}, {"samples": 0}])
def test_a_seed_or_a_count_that_there_is_not_is_refused(settings):
  (name,) = settings
  with pytest.raises(hc.UserError, match=f"^{name}="):
    next(sample.continue_text(None, None, None, "x", 1, **settings))
