"""Pieces for formulas written out in a test: float64 branches of a model, taken by their path."""

import jax
import numpy as np

from hc_jax import params as hc_params
from hc_jax.models import unstack_layers
from hc_jax.testing.reference import transformer
from tests.models import tiny

VISIBLE = np.tril(np.ones((1, tiny.LENGTH, tiny.LENGTH), bool))


def flat(model, params):
  """The parameters in float64 by path, of unrolled layers."""
  params = jax.tree.map(np.asarray, params)
  params = unstack_layers(params) if model.scan else params
  return {name: np.asarray(leaf, np.float64) for name, leaf in hc_params.named_leaves(params)}


class Layers:
  """The branches, norms and static maps of each layer, as functions and arrays."""

  def __init__(self, model, params):
    self.model, self.params = model, flat(model, params)
    self.embedding = self.params["token_embed/embedding"]
    self.x = self.embedding[tiny.TOKENS]

  def _at(self, layer, name):
    """The one parameter folder of that layer and name, in whatever segment."""
    for path in self.params:
      folder, _, tail = path.partition(f"layer_{layer}/{name}/")
      if tail:
        return transformer.below(self.params, f"{folder}layer_{layer}/{name}")
    return {}

  def attn(self, layer, x):
    return transformer.attention(self._at(layer, "attn"), x, self.model, VISIBLE)

  def ffn(self, layer, x):
    return transformer.feed_forward(self._at(layer, "ffn"), x, self.model)

  def norm(self, layer, name, x):
    return transformer.norm(self._at(layer, name), x, self.model)

  def maps(self, layer, name):
    """Static read, mix and write."""
    p = self._at(layer, name)
    return p["static_read"], p["static_mix"], p["static_write"]

  def final_norm(self, x):
    return transformer.norm(transformer.below(self.params, "final_norm"), x, self.model)

  def logits(self, hidden):
    """Computes the logits of reduced streams."""
    return self.final_norm(hidden) @ self.embedding.T


def close(found, expected):
  """float32 against float64 of a network."""
  expected = np.asarray(expected)
  assert np.std(expected) > 0.1
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())
