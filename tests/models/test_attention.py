"""Who sees whom, rotary positions, grouped queries."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from hc_jax.models import Attention, TokenContext
from hc_jax.models.layers import rotary
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.reference import transformer
from tests.models import tiny

# One compiled forward each, always called with every mask, so that no test compiles its own.
MODELS = {
  "rotary": {},
  "learned": {"positions": "learned", "connection": tiny.SHC2, "scan": False},
  "encoder": {"causal": False, "connection": tiny.DHC4},
}
CAUSAL = ["rotary", "learned"]
ONE = np.zeros_like(tiny.TOKENS)
ALL = np.ones(tiny.TOKENS.shape, bool)
POSITIONS = np.broadcast_to(np.arange(tiny.LENGTH, dtype=np.int32), tiny.TOKENS.shape)


@functools.cache
def parameters(name):
  return tiny.params(tiny.model(**MODELS[name]))


def logits(name, tokens, segment_ids=ONE, padding_mask=ALL, positions=POSITIONS):
  forward = tiny.forward(**MODELS[name])
  masks = {"segment_ids": segment_ids, "padding_mask": padding_mask, "positions": positions}
  return np.asarray(forward(parameters(name), tokens, **masks))


def changed(t):
  tokens = tiny.TOKENS.copy()
  tokens[:, t] = (tokens[:, t] + 5) % tiny.VOCAB
  return tokens


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("name", CAUSAL)
def test_no_token_sees_a_later_one(name, segments):
  """Change token t: what comes before is equal to the bit, what follows is not."""
  ids = ONE + (np.arange(tiny.LENGTH) >= 3)[None] if segments else ONE
  before = logits(name, tiny.TOKENS, ids)
  for t in (1, 4, tiny.LENGTH - 1):
    after = logits(name, changed(t), ids)
    np.testing.assert_array_equal(after[:, :t], before[:, :t])
    for later in range(t, 3 if segments and t < 3 else tiny.LENGTH):
      assert np.all(np.any(after[:, later] != before[:, later], axis=-1)), (t, later)


@pytest.mark.parametrize("t", [0, 5])
def test_an_encoder_sees_both_ways(t):
  different = np.any(logits("encoder", changed(t)) != logits("encoder", tiny.TOKENS), axis=-1)
  assert np.all(different)


def test_no_mask_is_the_mask_of_all():
  model = tiny.model(**MODELS["rotary"])
  plain = jit(model.apply)({"params": parameters("rotary")}, tiny.TOKENS)
  np.testing.assert_allclose(plain, logits("rotary", tiny.TOKENS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_padding_influences_nobody(name):
  """A masked token changes no bit of the other tokens' logits; without the mask it does."""
  mask = np.broadcast_to(np.arange(tiny.LENGTH) != 2, tiny.TOKENS.shape)
  before, after = (logits(name, t, padding_mask=mask) for t in (tiny.TOKENS, changed(2)))
  assert np.all(np.isfinite(before))
  np.testing.assert_array_equal(before[mask], after[mask])
  assert np.any(logits(name, tiny.TOKENS)[mask] != before[mask])


@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_are_separate_ones(name):
  """Two documents of 3 and 5 tokens in one window have the logits of each document alone.

  Rotary attention is relative, so positions that run on change nothing but rounding; given each
  document's own positions, learned ones agree too.
  """
  cut, length = 3, tiny.LENGTH
  ids = np.broadcast_to((np.arange(length) >= cut).astype(np.int32), tiny.TOKENS.shape)
  own = np.where(ids == 1, POSITIONS - cut, POSITIONS)
  packed = logits(name, tiny.TOKENS, ids, positions=own)

  def alone(tokens):
    """Computes the logits of one document, in a window of its own that padding fills."""
    padded = np.zeros_like(tiny.TOKENS)
    padded[:, : tokens.shape[1]] = tokens
    mask = np.broadcast_to(np.arange(length) < tokens.shape[1], padded.shape)
    return logits(name, padded, padding_mask=mask)[:, : tokens.shape[1]]

  separate = [alone(tiny.TOKENS[:, :cut]), alone(tiny.TOKENS[:, cut:])]
  np.testing.assert_allclose(packed, np.concatenate(separate, 1), rtol=1e-5, atol=2e-6)
  running = logits(name, tiny.TOKENS, ids)
  if name == "learned":
    assert np.abs(running - packed).max() > 1e-3
  else:
    np.testing.assert_allclose(running, packed, rtol=1e-4, atol=1e-5)
  assert np.abs(logits(name, tiny.TOKENS) - packed).max() > 1e-3


def test_grouped_queries_are_heads_with_repeated_keys_and_values():
  x, context = normal("x", 2, 6, 16), TokenContext(positions=jnp.arange(6)[None])
  kernels = {
    "query_kernel": normal("q", 16, 4, 4),
    "key_kernel": normal("k", 16, 2, 4),
    "value_kernel": normal("v", 16, 2, 4),
    "out_kernel": normal("o", 4, 4, 16),
  }
  repeated = {
    name: np.repeat(kernel, 2, axis=1) if name[0] in "kv" else kernel
    for name, kernel in kernels.items()
  }
  grouped = jit(Attention(num_heads=4, num_kv_heads=2).apply)({"params": kernels}, x, context)
  full = jit(Attention(num_heads=4).apply)({"params": repeated}, x, context)
  np.testing.assert_allclose(grouped, full, rtol=1e-5, atol=1e-5)


def test_rotary_turns_halves_and_is_relative():
  query, key = normal("q", 2, 5, 3, 8), normal("k", 2, 5, 3, 8)
  turn = jit(lambda x, positions: rotary(x, positions, 100.0))
  positions = np.array([[0, 1, 2, 3, 4], [7, 5, 0, 1, 100]])
  expected = transformer.rotate(query.astype(np.float64), positions, 100.0)
  np.testing.assert_allclose(turn(query, positions), expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(turn(query, 0 * positions), query, rtol=1e-6)
  # a unit vector along the first axis of pair 0 turns towards axis k / 2
  one = np.zeros((1, 1, 1, 8), np.float32)
  one[..., 0] = 1
  turned = turn(one, np.array([[1]]))[0, 0, 0]
  np.testing.assert_allclose(turned, [np.cos(1), 0, 0, 0, np.sin(1), 0, 0, 0], atol=1e-6)

  def scores(shift):
    a, b = turn(query, positions + shift), turn(key, positions + shift)
    return np.einsum("blhk,bmhk->bhlm", a, b)

  np.testing.assert_allclose(scores(0), scores(50), rtol=1e-3, atol=1e-3)
