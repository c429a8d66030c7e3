"""Parallel blocks and several views, against their formulas written out."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.models import Block, FeedForward, Norm, ParallelBlock, TokenContext, WholeBlock
from hc_jax.testing.compiled import jit, normal
from tests.models import by_hand, tiny

AFFINE = {"norm_params": True, "norm_eps": 0.1}


@pytest.mark.parametrize("scan, connection", [(True, tiny.SHC2), (False, tiny.RESIDUAL)])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_a_parallel_block_adds_both_branches_at_one_connection(scan, connection, norm_position):
  """x + Attn(N x) + FFN(N x), or N of the sum without inner norms, for the read of one site."""
  fields = {**AFFINE, "block": "parallel", "scan": scan, "connection": connection}
  fields["norm_position"] = norm_position
  model = tiny.model(**fields)
  params = tiny.params(model)
  layers = by_hand.Layers(model, params)
  n = connection().num_streams
  X = np.repeat(layers.x[:, :, None], n, axis=2)
  for layer in range(2):
    read, mix, write = np.ones((1, 1)), np.eye(1), np.ones((1, 1))
    if n > 1:
      read, mix, write = layers.maps(layer, "connection")
    h = (read @ X)[:, :, 0]
    h = layers.norm(layer, "norm", h) if norm_position == "pre" else h
    X = mix @ X + write * (layers.attn(layer, h) + layers.ffn(layer, h))[:, :, None]
    X = layers.norm(layer, "norm", X) if norm_position == "post" else X
  by_hand.close(tiny.forward(**fields)(params, tiny.TOKENS), layers.logits(X.sum(2)))


def test_sites_of_parallel_blocks_are_counted_by_blocks():
  model = tiny.model(
    block="parallel", num_layers=3, connection=functools.partial(tiny.SHC2, num_streams=3)
  )
  init = jit(lambda key: nn.unbox(model.init(key, tiny.TOKENS))["params"]["stack"]["layers"])
  reads = init(jax.random.key(0))["connection"]["static_read"]
  np.testing.assert_array_equal(np.argmax(reads, axis=-1).ravel(), [0, 1, 2])


def test_a_whole_block_has_the_residuals_inside():
  """Around a plain residual it is the sequential block, with one site instead of two."""
  fields = {**AFFINE, "connection": tiny.RESIDUAL}
  whole = tiny.model(**fields, block="whole")
  assert whole.connections()[0].num_params(16) == 0 and len(tiny.shapes(whole)["stack"]) == 1
  params = tiny.params(whole)
  found, want = (
    tiny.forward(**fields, block=block)(params, tiny.TOKENS) for block in ("whole", "sequential")
  )
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=2e-6)


def test_dropout_in_a_whole_block_spares_its_residual():
  streams = normal("x", 2, 5, 1, 16)
  context = TokenContext(positions=np.zeros((1, 5), np.int32), deterministic=False)
  block = WholeBlock(Branch, Branch, Norm, connection=tiny.RESIDUAL, dropout=1 - 2**-24)
  keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  found, _ = block.init_with_output(keys, streams, 0, context)
  kept, _ = block.clone(dropout=0.0).init_with_output(keys, streams, 0, context)
  np.testing.assert_array_equal(found, streams)
  assert np.abs(kept - streams).min() > 0


@pytest.mark.parametrize("views", [False, True])
def test_any_connection_goes_around_a_whole_block(views):
  """It writes the change of the block; with views queries, keys, values and residual have one."""
  fields = {**AFFINE, "block": "whole", "attention_views": views, "connection": tiny.SHC2}
  model = tiny.model(**fields)
  params = tiny.params(model)
  layers = by_hand.Layers(model, params)
  X = np.repeat(layers.x[:, :, None], 2, axis=2)
  for layer in range(2):
    read, mix, write = layers.maps(layer, "connection")
    assert read.shape == (4 if views else 1, 2)
    read = read @ X
    h = layers.norm(layer, "attn_norm", read[:, :, :3] if views else read[:, :, 0])
    change = layers.attn(layer, _views(layers, layer, h) if views else h)
    h = layers.norm(layer, "ffn_norm", read[:, :, -1] + change)
    X = mix @ X + write * (change + layers.ffn(layer, h))[:, :, None]
  by_hand.close(tiny.forward(**fields)(params, tiny.TOKENS), layers.logits(X.sum(2)))


def test_queries_keys_and_values_read_for_themselves():
  """Attention of three inputs, each a row of the read, normed by the one norm of the site."""
  fields = {**AFFINE, "attention_views": True, "connection": tiny.SHC2, "num_kv_heads": 1}
  model = tiny.model(**fields)
  params = tiny.params(model)
  layers = by_hand.Layers(model, params)
  X = np.repeat(layers.x[:, :, None], 2, axis=2)
  for layer in range(2):
    read, mix, write = layers.maps(layer, "attn_connection")
    assert read.shape == (3, 2)
    views = layers.norm(layer, "attn_norm", read @ X)
    X = mix @ X + write * layers.attn(layer, _views(layers, layer, views))[:, :, None]
    read, mix, write = layers.maps(layer, "ffn_connection")
    assert read.shape == (1, 2)
    h = layers.norm(layer, "ffn_norm", (read @ X)[:, :, 0])
    X = mix @ X + write * layers.ffn(layer, h)[:, :, None]
  by_hand.close(tiny.forward(**fields)(params, tiny.TOKENS), layers.logits(X.sum(2)))


def _views(layers, layer, views):
  """One input that holds the three side by side, and kernels that each see their own part.

  With it attention of one input, which has a reference, computes attention of three.
  """
  d = views.shape[-1]
  for i, name in enumerate(("query", "key", "value")):
    path = next(p for p in layers.params if p.endswith(f"layer_{layer}/attn/{name}_kernel"))
    kernel = layers.params[path]
    wide = np.zeros((3 * d, *kernel.shape[1:]))
    wide[i * d : (i + 1) * d] = kernel
    layers.params[path] = wide
  return views.reshape(*views.shape[:-2], 3 * d)


@pytest.mark.slow
def test_with_equal_rows_views_change_nothing():
  """At initialisation the three rows of the read are equal, and the network is the ordinary one."""
  plain = tiny.model()
  views = tiny.model(attention_views=True)

  @jit
  def run(key):
    params = nn.unbox(views.init(key, tiny.TOKENS))["params"]
    ordinary = nn.unbox(plain.init(key, tiny.TOKENS))["params"]
    ordinary = tiny.same_branches(params, ordinary)
    layers = ordinary["stack"]["layers"]
    for name, leaf in params["stack"]["layers"]["attn_connection"].items():
      leaf = leaf[:, :1] if name == "static_read" else leaf
      leaf = leaf[..., 2:] if name == "dynamic_kernel" else leaf  # of three equal rows, one
      layers["attn_connection"][name] = leaf
    return (
      views.apply({"params": params}, tiny.TOKENS),
      plain.apply({"params": ordinary}, tiny.TOKENS),
    )

  found, expected = run(jax.random.key(0))
  assert np.std(expected) > 1e-3
  np.testing.assert_array_equal(found, expected)


class Branch(nn.Module):
  """Takes one input."""

  @nn.compact
  def __call__(self, x, context):
    return jnp.sin(x)


def shape_of(block, streams):
  context = TokenContext(positions=np.zeros((1, 5), np.int32))
  return jax.eval_shape(block.init, jax.random.key(0), streams, 0, context)


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"block": "diagonal"}, "block='diagonal' is unknown; choose one of sequential, parallel"),
    (
      {"attention_views": True, "block": "parallel"},
      "attention_views needs block='sequential' or 'whole'",
    ),
    ({"block": "whole", "norm_position": "post"}, "norm_position='post': .* choose block='seq"),
    (
      {"block": "whole", "attention_views": True, "connection": hc.SinglePassMHC},
      "SinglePassMHC hands one read from site to site",
    ),
    (
      {"connection": functools.partial(hc.HyperConnection, num_views=2)},
      r"num_views=2, but this branch takes 1 input\(s\).*attention_views=True",
    ),
    ({"block": "dual"}, r"block='dual' is ResiDual .*not a hyper-connection; choose sequential"),
  ],
)
def test_what_does_not_go_together_is_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    tiny.model(**fields).check()
  with pytest.raises(ValueError, match=words):
    tiny.shapes(tiny.model(**fields))


@pytest.mark.parametrize(
  "connection, words",
  [
    (functools.partial(tiny.SHC2, num_views=3), "num_views=3, but this branch takes 1 input"),
    (functools.partial(tiny.SHC2, num_streams=3), r"num_streams=3 and takes .* \(2, 5, 2, 16\)"),
  ],
)
def test_a_block_refuses_connections_that_do_not_fit(connection, words):
  streams = hc.expand(normal("x", 2, 5, 16), 2)
  for cls in (Block, ParallelBlock):
    block = cls(attention=Branch, feed_forward=Branch, norm=Norm, connection=connection)
    with pytest.raises(ValueError, match=words):
      shape_of(block, streams)


def test_attention_refuses_views_that_it_does_not_expect():
  attention = functools.partial(hc.models.Attention, num_heads=2)
  feed_forward = functools.partial(FeedForward, d_ff=8)
  block = Block(attention, feed_forward, Norm, connection=tiny.SHC2, attention_views=3)
  streams = hc.expand(normal("x", 2, 5, 16), 2)
  with pytest.raises(ValueError, match=r"takes \[B, L, d\], but got \(2, 5, 3, 16\); give the"):
    shape_of(block, streams)
  shape_of(block.clone(attention=functools.partial(attention, num_views=3)), streams)
  with pytest.raises(ValueError, match=r"takes \[B, L, 3, d\], but got \(2, 5, 16\)"):
    shape_of(
      block.clone(attention=functools.partial(attention, num_views=3), attention_views=1), streams
    )
  with pytest.raises(ValueError, match=r"takes 1 view, or 3.*num_views=2"):
    shape_of(block.clone(attention=functools.partial(attention, num_views=2)), streams)
  # a branch that does not look at its views returns all views, which the write refuses
  with pytest.raises(ValueError, match=r"the branch output is \(2, 5, 3, 16\).* several views"):
    shape_of(block.clone(attention=Branch), streams)
