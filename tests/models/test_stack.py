"""Scanned equals unrolled, remat changes nothing, everything learns, dropout spares the streams."""

import functools

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hc_jax as hc
from hc_jax.models import Block, Norm, Stack, TokenContext, stack_layers, unstack_layers
from hc_jax.testing.compiled import jit, normal
from tests.models import tiny

# One model for all gradients here: everything that has parameters.
MODEL = {
  "norm": "rmsnorm",
  "norm_eps": 1e-12,  # with more, the scale of a normed input matters a little
  "norm_params": True,
  "qk_norm": True,
  "positions": "learned",
  "tie_embeddings": False,
  "activation": "swiglu",
}


@functools.cache
def value_and_grad(scan, remat):
  model = tiny.model(**MODEL, scan=scan, remat=remat)

  def loss(params):
    logits = model.apply({"params": params}, tiny.TOKENS)
    chosen = jax.nn.one_hot(jnp.roll(tiny.TOKENS, -1, axis=1), tiny.VOCAB)
    return -jnp.mean(jnp.sum(chosen * jax.nn.log_softmax(logits), axis=-1)), logits

  return jit(lambda params: jax.value_and_grad(loss, has_aux=True)(params))


@functools.cache
def stacked():
  return tiny.params(tiny.model(**MODEL))


@functools.cache
def expected():
  """Returns logits and unrolled gradients of the scanned stack without remat."""
  (_, logits), grads = value_and_grad(True, "none")(stacked())
  return np.asarray(logits), jax.tree.map(np.asarray, unstack_layers(grads))


@pytest.mark.slow
@pytest.mark.parametrize(
  "scan, remat", [(True, "branches"), (False, "full"), (True, "blocks:2"), (False, "blocks:2")]
)
def test_scan_and_remat_change_no_logit_and_no_gradient(scan, remat):
  params = stacked() if scan else unstack_layers(stacked())
  (_, logits), grads = value_and_grad(scan, remat)(params)
  np.testing.assert_allclose(logits, expected()[0], rtol=1e-4, atol=1e-5)
  grads = unstack_layers(grads) if scan else grads
  chex.assert_trees_all_close(grads, expected()[1], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_remat_recomputes_what_it_says():
  """The policies differ in the program: none repeats nothing, full repeats the branches too."""

  def products(remat):
    model = tiny.model(num_layers=1, scan=False, remat=remat)

    def loss(p):
      return jnp.sum(model.apply({"params": p}, tiny.TOKENS))

    return str(jax.make_jaxpr(jax.grad(loss))(nn.unbox(tiny.shapes(model)))).count("dot_general")

  none, branches, full = (products(remat) for remat in ("none", "branches", "full"))
  assert none < branches <= full


def test_stack_and_unstack_are_inverse():
  unrolled = unstack_layers(stacked())
  assert sorted(unrolled["stack"]) == ["layer_0", "layer_1"]
  chex.assert_trees_all_equal(stack_layers(unrolled), stacked())
  shapes = nn.unbox(tiny.shapes(tiny.model(**MODEL, scan=False)))
  chex.assert_trees_all_equal_shapes_and_dtypes(unrolled, shapes)
  # ten layers and more keep their order
  many = {f"layer_{i}": {"a": np.float32([i])} for i in range(12)}
  np.testing.assert_array_equal(stack_layers(many)["layers"]["a"][:, 0], np.arange(12))


def test_optimizer_state_converts_too():
  optimizer = optax.adamw(1e-3, mask=hc.decay_mask)
  state = jax.eval_shape(optimizer.init, stacked())
  state = jax.tree.map(lambda a: normal(str(a.shape), *a.shape).astype(a.dtype), state)
  unrolled = unstack_layers(state)
  shapes = jax.eval_shape(optimizer.init, unstack_layers(stacked()))
  chex.assert_trees_all_equal_shapes_and_dtypes(unrolled, shapes)
  chex.assert_trees_all_equal(stack_layers(unrolled), state)


def test_every_parameter_of_every_layer_learns_by_step_2():
  """Against the median of its kind over layers and sublayers, after one step of Adam from init.

  The first site's read is apart: its n streams are equal, so the choice of a stream changes
  only the scale of an input that is normed.
  """
  model = tiny.model(**MODEL)
  start = tiny.at_init(model)
  # Adam's first step, at rate 0.01, is the sign of the gradient.
  _, grads = value_and_grad(True, "none")(start)
  for name, grad in hc.params.named_leaves(grads):
    assert np.all(np.isfinite(grad)), name
  second = jax.tree.map(lambda p, g: p - np.float32(0.01) * np.sign(g), start, grads)
  _, grads = value_and_grad(True, "none")(second)
  sizes, kinds = {}, {}
  for path, grad in hc.params.named_leaves(unstack_layers(jax.tree.map(np.asarray, grads))):
    sizes[path] = float(np.linalg.norm(grad))
    kind = (
      path.rsplit("/", 1)[-1] if hc.params.is_connection(path) else path.split("layer_")[-1][1:]
    )
    kinds.setdefault(kind, []).append(path)
  assert len(sizes) == 2 * (2 * 6 + 2 + 2 + 4 + 3) + 4
  first_read = "stack/layer_0/attn_connection/static_read"
  for kind, paths in kinds.items():
    median = np.median([sizes[p] for p in paths])
    assert median > 1e-6, kind
    for path in paths:
      if path != first_read:
        assert sizes[path] > 0.01 * median, (path, sizes[path], median)
  assert sizes[first_read] < 1e-3 * np.median([sizes[p] for p in kinds["static_read"]])


def test_with_one_stream_read_only_scales_what_is_normed():
  connection = functools.partial(hc.HyperConnection, num_streams=1, dynamic=False)
  model = tiny.model(connection=connection, norm_eps=1e-12)
  params = tiny.params(model)
  weights = normal("weights", *tiny.TOKENS.shape, tiny.VOCAB)

  def loss(params):
    return jnp.sum(weights * model.apply({"params": params}, tiny.TOKENS))

  grads = jit(jax.grad(loss))(params)["stack"]["layers"]
  for site in ("attn_connection", "ffn_connection"):
    of = jax.tree.map(np.abs, grads[site])
    assert np.all(of["static_read"] < 1e-2 * np.min(of["static_write"])), of


class Branch(nn.Module):
  """A branch without parameters."""

  @nn.compact
  def __call__(self, x, context):
    return jnp.sin(x)


def block(rate):
  connection = functools.partial(hc.HyperConnection, num_streams=3, dynamic=False)
  return Block(
    attention=Branch, feed_forward=Branch, norm=Norm, connection=connection, dropout=rate
  )


@functools.cache
def block_params():
  sites = ("attn_connection", "ffn_connection")
  shapes = {"static_read": (1, 3), "static_mix": (3, 3), "static_write": (3, 1)}
  return {s: {k: normal(s + k, *shape) for k, shape in shapes.items()} for s in sites}


def run_block(rate, deterministic, seed=0):
  context = TokenContext(positions=np.zeros((1, 5), np.int32), deterministic=deterministic)
  streams = normal("streams", 2, 5, 3, 16)
  rngs = None if deterministic else {"dropout": jax.random.key(seed)}

  @jit
  def run(params, streams):
    return block(rate).apply({"params": params}, streams, 0, context, rngs=rngs)

  return streams, np.asarray(run(block_params(), streams))


def test_dropout_of_everything_leaves_the_mixed_streams():
  """Trap 15: dropout on all streams instead of the branch output would erase them."""
  streams, out = run_block(1.0, deterministic=False)
  first, second = (block_params()[s]["static_mix"] for s in ("attn_connection", "ffn_connection"))
  mixed = np.einsum("ij,jk,blkw->bliw", second, first, streams)
  np.testing.assert_allclose(out, mixed, rtol=1e-5, atol=1e-5)


def test_dropout_drops_branch_outputs_and_only_in_training():
  _, without = run_block(0.0, deterministic=False)
  _, dropped = run_block(0.5, deterministic=False)
  _, other = run_block(0.5, deterministic=False, seed=1)
  _, evaluated = run_block(0.5, deterministic=True)
  np.testing.assert_array_equal(evaluated, without)
  assert np.any(dropped != without) and np.any(dropped != other)


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_needs_a_key(scan):
  model = tiny.model(dropout=0.5, scan=scan)

  def shape(params, key=None, **kwargs):
    rngs = None if key is None else {"dropout": key}
    return model.apply({"params": params}, tiny.TOKENS, rngs=rngs, **kwargs)

  params = tiny.shapes(model)
  with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
    jax.eval_shape(functools.partial(shape, deterministic=False), params)
  jax.eval_shape(shape, params)
  jax.eval_shape(functools.partial(shape, deterministic=False), params, jax.random.key(0))


class Sowing(nn.Module):
  """A feed-forward that sows a loss of its own, as a mixture of experts does."""

  @nn.compact
  def __call__(self, x, context):
    self.sow("losses", "balance", jnp.sum(x))
    return x


@pytest.mark.parametrize("scan", [True, False])
def test_what_a_branch_sows_comes_out_of_the_stack(scan):
  block = functools.partial(Block, Sowing, Sowing, nn.LayerNorm, functools.partial(hc.Residual))
  stack = Stack(block, 3, scan=scan)
  context = TokenContext(jnp.arange(2)[None], None, True, False)
  streams = jnp.ones((1, 2, 1, 4))
  variables = stack.init(jax.random.key(0), streams, context)
  _, state = jax.eval_shape(
    lambda s: stack.apply({"params": variables.get("params", {})}, s, context, mutable=["losses"]),
    streams,
  )
  sizes = [leaf.size for leaf in jax.tree.leaves(state["losses"])]
  assert sum(sizes) == 2 * 3
