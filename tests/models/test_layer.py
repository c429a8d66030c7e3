"""One transformer layer, stacked by hand."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import axes
from hc_jax.models import TransformerLayer, TransformerLM
from hc_jax.testing.compiled import jit, normal

X = normal("x", 2, 5, 8)
MASK = np.tril(np.ones((1, 1, 5, 5), bool))


class ByHand(nn.Module):
  """Two layers under an explicit causal mask."""

  @nn.compact
  def __call__(self, x, mask=None):
    streams = hc.expand(x, 4)
    for i in range(2):
      layer = TransformerLayer(2, 16, hc.HyperConnection, causal=mask is None, name=f"layer_{i}")
      streams = layer(streams, i, mask)
    return hc.reduce(streams)


@pytest.mark.slow
def test_layers_by_hand_are_the_language_models():
  """Parameters have the same names and values, and a causal mask makes the layer causal."""
  model = TransformerLM(
    vocab_size=11, d_model=8, num_layers=2, num_heads=2, d_ff=16, scan=False, remat="none"
  )
  tokens = np.arange(10).reshape(2, 5) % 11
  params = axes.unboxed(jit(model.init)(jax.random.key(0), tokens)["params"])
  embedded = np.asarray(params["token_embed"]["embedding"])[tokens]
  layers = params["stack"]
  shapes = axes.unboxed(jax.eval_shape(ByHand().init, jax.random.key(0), X)["params"])
  assert jax.tree.map(lambda a: a.shape, layers) == jax.tree.map(lambda a: a.shape, shapes)
  want = jit(lambda p: model.apply({"params": p}, tokens, method="hidden"))(params)
  both = jit(lambda p: [ByHand().apply({"params": p}, embedded, m) for m in (None, MASK)])(layers)
  for found in both:
    np.testing.assert_allclose(found, want, rtol=2e-6, atol=2e-6)


def test_what_does_not_fit_is_refused():
  layer = TransformerLayer(2, 16)
  with pytest.raises(ValueError, match=r"takes \[B, L, n, w\]; make them"):
    layer.init(jax.random.key(0), X, 0)
  with pytest.raises(ValueError, match="mask has the shape"):
    layer.init(jax.random.key(0), hc.expand(X, 4), 0, MASK[0])
