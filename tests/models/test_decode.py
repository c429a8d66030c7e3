"""Decoding with a KV cache runs the same lines, and gives what the whole window gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hc_jax import params as hc_params
from hc_jax.testing.compiled import jit
from tests.models import tiny

MODELS = {
  "hc-gqa-rotary": {"num_heads": 4, "num_kv_heads": 2, "qk_norm": True, "remat": "branches"},
  "residual-learned": {"connection": tiny.RESIDUAL, "positions": "learned", "scan": False},
  "views": {"attention_views": True, "expand": "embedding", "reduce": "head"},
  "parallel-segments": {
    "block": "parallel",
    "layers": ((1, tiny.RESIDUAL), (1, tiny.SHC2)),
    "remat": "branches",
  },
}
PROMPT, NEW, MAX = 3, 6, 12


@functools.cache
def parameters(name):
  return tiny.params(tiny.model(**MODELS[name]))


@functools.cache
def step(name):
  """One call of the cached model; its first makes the cache."""
  model = tiny.model(**MODELS[name])

  def call(params, cache, tokens):
    variables = {"params": params, **({"cache": cache} if cache else {})}
    logits, new = model.apply(variables, tokens, decode=True, mutable=["cache"])
    return logits, new["cache"]

  return jit(call)


def uncached(name, tokens):
  """Logits of the whole window, of one length for all: what follows cannot be seen."""
  padded = np.zeros((tokens.shape[0], MAX), np.int32)
  padded[:, : tokens.shape[1]] = tokens
  return np.asarray(tiny.forward(**MODELS[name])(parameters(name), padded))[:, : tokens.shape[1]]


FEW = ("hc-gqa-rotary", "residual-learned")


@pytest.mark.parametrize(
  "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_cached_greedy_decoding_equals_uncached(name):
  tokens = tiny.TOKENS[:, :PROMPT]
  logits, cache = step(name)(parameters(name), None, tokens)
  np.testing.assert_allclose(logits, uncached(name, tokens), rtol=1e-4, atol=1e-5)
  for _ in range(NEW):
    expected = uncached(name, tokens)[:, -1]
    np.testing.assert_allclose(logits[:, -1], expected, rtol=1e-4, atol=1e-5)
    chosen = np.argmax(np.asarray(logits)[:, -1], axis=-1)
    np.testing.assert_array_equal(chosen, expected.argmax(-1))
    tokens = np.concatenate([tokens, chosen[:, None].astype(np.int32)], axis=1)
    logits, cache = step(name)(parameters(name), cache, tokens[:, -1:])
  assert len(np.unique(tokens[:, PROMPT:])) > 1
  paths = [path for path, _ in hc_params.named_leaves(cache)]
  assert not any(hc_params.is_connection(path) for path in paths), paths
  index = {path: int(leaf) for path, leaf in hc_params.named_leaves(cache) if "index" in path}
  assert list(index.values()) == [PROMPT + NEW]


def test_past_the_end_of_the_cache_is_nan_and_not_nonsense():
  name = "hc-gqa-rotary"
  logits, cache = step(name)(parameters(name), None, tiny.TOKENS[:, :PROMPT])
  for position in range(PROMPT, MAX + 1):
    logits, cache = step(name)(parameters(name), cache, tiny.TOKENS[:, :1])
    assert np.all(np.isnan(logits)) == (position >= MAX), position


def test_a_cache_that_init_made_is_the_same():
  """`init(..., decode=True)` shapes the cache that the first call of `step` makes."""
  name = "hc-gqa-rotary"
  model = tiny.model(**MODELS[name])
  init = functools.partial(model.init, decode=True)
  made = jax.eval_shape(init, jax.random.key(0), tiny.TOKENS[:, :1])["cache"]
  _, grown = jax.eval_shape(step(name), parameters(name), None, tiny.TOKENS[:, :PROMPT])
  assert jax.tree.map(lambda a: (a.shape, a.dtype), made) == jax.tree.map(
    lambda a: (a.shape, a.dtype), grown
  )


def decode(model, length, **kwargs):
  variables = {"params": tiny.shapes(model)}
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  call = functools.partial(model.apply, decode=True, mutable=["cache"], **kwargs)
  return jax.eval_shape(call, variables, tokens)


@pytest.mark.parametrize(
  "fields, length, kwargs, words",
  [
    ({}, MAX + 1, {}, "13 tokens exceed max_length=12"),
    ({}, 2, {"segment_ids": np.zeros((1, 2), np.int32)}, "one document"),
    ({}, 2, {"padding_mask": np.ones((1, 2), bool)}, "one document"),
    ({"causal": False}, 2, {}, "encoder"),
  ],
)
def test_what_cannot_be_decoded_is_refused(fields, length, kwargs, words):
  with pytest.raises(ValueError, match=words):
    decode(tiny.model(**fields), length, **kwargs)
