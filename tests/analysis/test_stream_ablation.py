"""Tests of the stream ablation, against networks cut by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.analysis import Site, ablate_streams, collect_sites
from tests.models import tiny

SHC3 = functools.partial(hc.HyperConnection, num_streams=3, dynamic=False)


def ablation(model, params, tokens=tiny.TOKENS):
  return ablate_streams(model, params, collect_sites(model, params, tokens), tokens)


def divergence(logits, others):
  p, q = (np.asarray(jax.nn.log_softmax(x), np.float64) for x in (logits, others))
  return np.mean(np.sum(np.exp(p) * (p - q), -1))


def test_the_residual_without_its_stream_starts_from_nothing():
  """Zeroing before site 0 erases the embedding; before a later site, all earlier outputs too."""
  fields = {"connection": hc.Residual, "tie_embeddings": False, "remat": "branches"}
  fields["norm_params"] = True  # without a bias, every ablated output would be zero
  model = tiny.model(**fields)
  params = tiny.params(model)
  found = ablation(model, params)
  assert found.shape == (4, 1)
  forward = jax.jit(lambda params: model.apply({"params": params}, tiny.TOKENS))
  blind = {**params, "token_embed": jax.tree.map(np.zeros_like, params["token_embed"])}
  assert found[0, 0] == pytest.approx(divergence(forward(params), forward(blind)), rel=1e-4)

  upper = tiny.model(**fields, num_layers=1)
  stack = jax.tree.map(lambda leaf: leaf[1:], params["stack"])
  cut = jax.jit(upper.apply)({"params": {**blind, "stack": stack}}, tiny.TOKENS)
  assert found[2, 0] == pytest.approx(divergence(forward(params), cut), rel=1e-4)


def test_a_stream_that_nothing_reads_is_not_missed():
  """No site reads stream 1 or mixes it into others, and the last one drops it."""
  model = tiny.model(connection=SHC3, scan=False)
  params = tiny.params(model)

  def deaf(path, leaf):
    name = path[-1].key
    if name == "static_read":
      return leaf * np.array([1, 0, 1], np.float32)
    if name != "static_mix":
      return leaf
    mix = np.array(leaf)
    mix[..., [0, 2], 1] = 0
    if [key.key for key in path[:2]] == ["layer_1", "ffn_connection"]:
      mix[1, 1] = 0
    return mix

  params["stack"] = jax.tree_util.tree_map_with_path(deaf, params["stack"])
  found = ablation(model, params)
  assert found.shape == (4, 3)
  np.testing.assert_allclose(found[:, 1], 0, atol=1e-6)
  assert np.all(found[:, [0, 2]] > 1e-3)


@pytest.mark.slow
def test_networks_whose_layers_differ():
  """A block with one stream, then one with two: cells are missing, and sites count through."""
  model = tiny.model(layers=((1, hc.Residual), (1, tiny.DHC2)), num_layers=2)
  found = ablation(model, tiny.params(model))
  assert np.isnan(found).tolist() == [[False, True], [False, True], [False] * 2, [False] * 2]
  assert np.all(found[np.isfinite(found)] > 1e-4)


class Mine(nn.Module):
  """A user's own network: the read and the write of one site, by keyword."""

  numbered: bool = True

  @nn.compact
  def __call__(self, x):
    streams = hc.expand(x, 2)
    for k in range(2):
      connection = hc.HyperConnection(num_streams=2)
      h, coefs = connection(streams=streams, index=k if self.numbered else 0)
      y = nn.Dense(x.shape[-1])(h)
      streams = connection.write(streams=streams, branch_output=y, coefs=coefs)
    return hc.reduce(streams)


def test_a_users_own_model():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 8)), jnp.float32)
  params = nn.unbox(jax.jit(Mine().init)(jax.random.key(0), x))["params"]
  found = ablation(Mine(), params, x)
  assert found.shape == (2, 2) and np.all(found > 1e-4)
  with pytest.raises(ValueError, match=r"HyperConnection_0 and HyperConnection_1 .* index 0"):
    ablation(Mine(numbered=False), params, x)


def test_sites_without_an_index_are_refused():
  site = Site(hc.Coefs(np.ones((1, 2)), np.ones((2, 1)), None), np.ones((1, 2, 4)), None, None)
  with pytest.raises(ValueError, match="has no index"):
    ablate_streams(Mine(), {}, {"a": site}, np.ones((1, 4)))
