"""Tests that any model gives its coefficients by site, in the order of the forward pass."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.analysis import collect_coefs, plots, token_mean

TOKENS = jnp.arange(12).reshape(2, 6)


def language_model(scan, **fields):
  model = hc.models.TransformerLM(
    vocab_size=12, d_model=8, num_layers=2, num_heads=2, scan=scan, **fields
  )
  return model, nn.unbox(jax.jit(model.init)(jax.random.key(0), TOKENS))["params"]


@pytest.mark.slow
def test_sites_are_in_the_order_of_the_network():
  """Scanned or unrolled; the initial read identifies the sublayer of a site."""
  model, params = language_model(True)
  scanned = collect_coefs(model, params, TOKENS)
  unrolled = collect_coefs(language_model(False)[0], hc.models.unstack_layers(params), TOKENS)
  expected = [f"layer_{i}/{name}_connection" for i in range(2) for name in ("attn", "ffn")]
  for sites in (scanned, unrolled):
    assert [site.removeprefix("stack/") for site in sites] == expected
    for index, coefs in enumerate(sites.values()):
      assert coefs.read.shape == (2, 6, 1, 4)
      np.testing.assert_array_equal(token_mean(coefs).read[0].argmax(), index % 4)


def test_a_users_own_model():
  class Mine(nn.Module):
    @nn.compact
    def __call__(self, x):
      streams = hc.expand(x, 2)
      for index in range(11):
        connection = hc.HyperConnection(num_streams=2, dynamic=False)
        h, coefs = connection(streams, index)
        streams = connection.write(streams, jnp.sin(h), coefs)
      return hc.reduce(streams)

  x = jnp.ones((2, 5, 4))
  params = nn.unbox(Mine().init(jax.random.key(0), x))["params"]
  sites = collect_coefs(Mine(), params, x)
  assert list(sites) == [f"HyperConnection_{i}" for i in range(11)]  # 10 after 9, not after 1


def test_a_residual_model_mixes_by_the_identity():
  model, params = language_model(True, connection=hc.Residual)
  mean = token_mean(next(iter(collect_coefs(model, params, TOKENS).values())))
  np.testing.assert_array_equal(mean.mix, [[1.0]])


def test_a_model_without_connections_is_refused():
  model = nn.Dense(3)
  params = model.init(jax.random.key(0), jnp.ones((2, 4)))["params"]
  with pytest.raises(ValueError, match="without a connection"):
    collect_coefs(model, params, jnp.ones((2, 4)))


@pytest.mark.parametrize("n, sites", [(1, 1), (4, 9)])
def test_pictures_of_any_size(tmp_path, monkeypatch, n, sites):
  monkeypatch.setattr(plots.connections, "MAX_SITES", 6)
  coefs = hc.Coefs(read=np.eye(n)[:1], write=np.ones((n, 1)), mix=np.eye(n) + 0.1)
  figure = plots.connection_weights(
    {f"stack/layer_{i}/ffn_connection": coefs for i in range(sites)}
  )
  figure.savefig(tmp_path / "a.png", dpi=40)
  drawn = [ax for ax in figure.findobj(plt_axes) if ax.images and ax.get_visible()]
  assert len(drawn) >= 2 + min(sites, 6)


def test_sites_of_several_shapes_in_one_picture(tmp_path):
  """A figure has a row for each slot and fraction; missing streams stay white."""
  shapes = [(1, 1, 1), (3, 2, 1), (2, 4, 2)]  # slots of the read, streams, fractions
  sites = {
    f"stack/segment_{i}/layer_{i}/attn_connection": hc.Coefs(
      read=np.full((v, n), i + 1.0), write=np.full((n, m), i + 1.0), mix=np.eye(n)
    )
    for i, (v, n, m) in enumerate(shapes)
  }
  figure = plots.connection_weights(sites)
  figure.savefig(tmp_path / "a.png", dpi=40)
  read, write = figure.subfigs[0].axes[:2]
  labels = [label.get_text() for label in read.get_yticklabels()]
  assert labels == ["0 attn", *(f"1 attn [{i}]" for i in range(3)), "2 attn [0]", "2 attn [1]"]
  shown = read.images[0].get_array().filled(np.nan)
  assert np.isfinite(shown).sum(-1).tolist() == [1, 2, 2, 2, 4, 4]
  assert np.isfinite(write.images[0].get_array().filled(np.nan)).sum(-1).tolist() == [1, 2, 4, 4]


def plt_axes(artist):
  return hasattr(artist, "images")


def test_loss_curve_of_what_there_is(tmp_path):
  rows = [{"step": 0, "val/loss": 5.0, "val/bpb": 7.2}, {"step": 1, "train/loss": 4.0}]
  for part in (rows, rows[:1], rows[1:], []):
    figure = plots.loss_curve(part)
    figure.savefig(tmp_path / "a.png", dpi=40)
    assert figure.axes[0].get_ylabel() == "loss (nats per token)"
