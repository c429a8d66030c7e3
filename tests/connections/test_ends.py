"""Expand and Reduce against formulas in float64, in modules and in the language model."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal
from tests.models import by_hand, tiny

FRAC = functools.partial(hc.connections.FracConnection, num_streams=4, fractions=2)
SHAPES = [(4, 1), (3, 1), (4, 2), (3, 2), (2, 2)]  # n streams, m fractions of 12


def weighted(kind, params, X, fractions):
  """Computes Reduce in float64, copy by copy of each fraction."""
  X, n = X.astype(np.float64), X.shape[-2]
  if kind == "head":
    normed = X / np.sqrt(np.mean(X**2, axis=(-2, -1), keepdims=True) + 1e-6)
    logits = params["scale"] * np.einsum("bnw,nwk->bk", normed, params["kernel"]) + params["bias"]
    X = (1 / (1 + np.exp(-logits)) + 1e-6)[..., None] * X
  copies = n / fractions
  if kind == "first":
    return X[..., :fractions, :].reshape(*X.shape[:-2], -1)
  parts = [X[..., k::fractions, :].mean(-2) for k in range(fractions)]
  return np.concatenate(parts, axis=-1) * (1 if kind == "mean" else copies)


@pytest.mark.parametrize("kind", ["sum", "mean", "head", "first"])
@pytest.mark.parametrize("n, m", SHAPES)
def test_reduce(kind, n, m):
  X = normal("X", 5, n, 12 // m)
  reduce = hc.Reduce(m, kind=kind)
  shapes = nn.unbox(jax.eval_shape(reduce.init, jax.random.key(0), X)).get("params", {})
  params = {name: normal(name, *leaf.shape) for name, leaf in shapes.items()}
  assert {name: leaf.shape for name, leaf in shapes.items()} == (
    {"kernel": (n, 12 // m, n), "bias": (n,), "scale": (1,)} if kind == "head" else {}
  )
  run = jit(reduce.apply)
  found = run({"params": params}, X)
  chex.assert_shape(found, (5, 12))
  chex.assert_type(found, jnp.float32)
  np.testing.assert_allclose(found, weighted(kind, params, X, m), rtol=1e-5, atol=1e-5)
  rounded = run({"params": params}, X.astype(jnp.bfloat16))
  chex.assert_type(rounded, jnp.float32)
  exact = weighted(kind, params, np.asarray(X.astype(jnp.bfloat16), np.float32), m)
  np.testing.assert_allclose(rounded, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["copy", "scaling", "embedding", "first"])
@pytest.mark.parametrize("n, m", SHAPES)
def test_expand(kind, n, m):
  x = normal("x", 5, 12)
  expand = hc.Expand(n, m, kind=kind)
  shapes = nn.unbox(jax.eval_shape(expand.init, jax.random.key(0), x)).get("params", {})
  name = {"scaling": "scale", "embedding": "bias"}.get(kind)
  assert {k: v.shape for k, v in shapes.items()} == ({name: (n, 12 // m)} if name else {})
  own = normal("own", n, 12 // m)
  parts = x.reshape(5, m, 12 // m).astype(np.float64)
  copies = np.stack([parts[:, j % m] for j in range(n)], axis=1)
  first = copies * (np.arange(n) < m)[:, None]
  expected = {"copy": copies, "scaling": copies * own, "embedding": copies + own, "first": first}
  run = jit(expand.apply)
  params = {"params": {name: own} if name else {}}
  np.testing.assert_allclose(run(params, x), expected[kind], rtol=1e-6, atol=1e-6)
  chex.assert_type(run(params, x.astype(jnp.bfloat16)), jnp.bfloat16)


def test_streams_begin_unequal_unless_asked():
  x = np.ones((2, 12), np.float32)
  for kind, middle in (("scaling", 1), ("embedding", 0)):
    for std in (0.02, 0.0):
      expand = hc.Expand(3, kind=kind, init_std=std)
      streams, variables = jit(expand.init_with_output)(jax.random.key(0), x)
      (leaf,) = jax.tree.leaves(nn.unbox(variables))
      if std:
        assert 0.5 * std < np.std(leaf) < 2 * std and abs(np.mean(leaf) - middle) < std
        assert np.all(streams[:, 0] != streams[:, 1])
      else:
        np.testing.assert_array_equal(streams, np.ones((2, 3, 12)))


def network(params, **fields):
  """Computes the logits of a model by hand, except for the stack, which is the library's own."""
  model = tiny.model(**fields)
  layers = by_hand.Layers(model, params)
  expand = layers.params.get("expand_streams/scale", 1.0)
  X = layers.x[:, :, None] * expand + layers.params.get("expand_streams/bias", 0.0)
  for layer in range(2):
    for name, branch in (("attn", layers.attn), ("ffn", layers.ffn)):
      read, mix, write = layers.maps(layer, f"{name}_connection")
      h = layers.norm(layer, f"{name}_norm", (read @ X)[:, :, 0])
      X = mix @ X + write * branch(layer, h)[:, :, None]
  head = {k: layers.params.get(f"reduce_streams/{k}") for k in ("kernel", "bias", "scale")}
  flat = weighted(fields["reduce"], head, X.reshape(-1, *X.shape[2:]), 1)
  return layers.logits(flat.reshape(layers.x.shape))


@pytest.mark.parametrize("expand, reduce", [("scaling", "head"), ("embedding", "mean")])
def test_the_language_model_has_them(expand, reduce):
  fields = {"connection": tiny.SHC2, "expand": expand, "reduce": reduce, "norm_eps": 0.1}
  model = tiny.model(**fields)
  params = tiny.params(model)
  by_hand.close(tiny.forward(**fields)(params, tiny.TOKENS), network(params, **fields))


@pytest.mark.parametrize(
  "expand, reduce",
  [("scaling", "head"), pytest.param("embedding", "mean", marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_without_noise_the_network_starts_as_with_copies_and_a_sum(expand, reduce):
  """The ends have initial values of their own, the rest is taken from the plain model."""
  fields = {"connection": tiny.DHC2, "final_norm_eps": 1e-12}
  model = tiny.model(**fields, expand=expand, reduce=reduce, expand_init_std=0.0)
  plain = tiny.at_init(tiny.model(**fields))

  @jit
  def run(key, plain):
    ends = nn.unbox(model.init(key, tiny.TOKENS))["params"]
    ends = {k: v for k, v in ends.items() if k.endswith("_streams")}
    return model.apply({"params": {**plain, **ends}}, tiny.TOKENS)

  expected = tiny.forward(**fields)(plain, tiny.TOKENS)
  np.testing.assert_allclose(run(jax.random.key(0), plain), expected, atol=1e-5)


@pytest.mark.parametrize("kind, apart", [("copy", False), ("scaling", True), ("embedding", True)])
def test_only_unequal_streams_come_apart(kind, apart):
  """If maps treat streams alike, copies stay equal forever (family trap); other kinds do not.

  One step of gradient descent on a static connection that starts by reading the mean.
  """
  n, x = 3, normal("x", 4, 8)
  start = {
    "static_read": np.full((1, n), 1 / n, np.float32),
    "static_mix": np.eye(n, dtype=np.float32),
    "static_write": np.ones((n, 1), np.float32),
  }
  connections = [hc.HyperConnection(num_streams=n, dynamic=False)] * 2
  expand = hc.Expand(n, kind=kind)

  def loss(maps, ends):
    streams = expand.apply({"params": ends}, x)
    for connection, p in zip(connections, maps, strict=True):
      h, coefs = connection.apply({"params": p}, streams, 0)
      streams = connection.apply({"params": p}, streams, jnp.tanh(h) @ W, coefs, method="write")
    return jnp.sum(normal("weights", 4, 8) * jnp.sin(hc.reduce(streams)))

  W = normal("W", 8, 8)
  ends = nn.unbox(jit(expand.init)(jax.random.key(0), x)).get("params", {})
  grads = jit(jax.grad(loss))([start, start], ends)
  spread = [np.ptp(np.asarray(g["static_read"])) for g in grads]
  scale = max(np.abs(np.asarray(g["static_read"])).max() for g in grads)
  assert (max(spread) > 1e-3 * scale) == apart


def test_with_a_head_the_last_mix_learns():
  """Behind a mix whose columns sum to one, sum and mean see no mix; a head does."""
  n, X, y = 3, normal("X", 4, 3, 8), normal("y", 4, 8)

  def loss(logits, params, kind):
    mix = jax.nn.softmax(logits, axis=0)  # columns sum to one
    coefs = hc.Coefs(read=jnp.ones((1, n)), write=jnp.ones((n, 1)), mix=mix)
    x = hc.Reduce(kind=kind).apply({"params": params}, hc.write(X, y, coefs))
    return jnp.sum(normal("weights", 4, 8) * jnp.sin(x))

  params = {k: normal(k, *s) for k, s in (("kernel", (n, 8, n)), ("bias", (n,)), ("scale", (1,)))}
  grads = {
    kind: np.abs(jit(jax.grad(functools.partial(loss, kind=kind)))(normal("l", n, n), p)).max()
    for kind, p in (("sum", {}), ("mean", {}), ("head", params))
  }
  assert max(grads["sum"], grads["mean"]) < 1e-4 * grads["head"]


def test_ends_count_as_connections_and_decay_by_name():
  model = tiny.model(expand="scaling", reduce="head")
  params = tiny.shapes(model)
  plain = hc.param_count(tiny.shapes(tiny.model()))
  found = hc.param_count(params)
  ends = 2 * 16 + (2 * 16 * 2 + 2 + 1)
  assert found.connection - plain.connection == found.total - plain.total == ends
  mask = dict(hc.params.named_leaves(hc.decay_mask(params)))
  assert {name.split("/")[-1]: decays for name, decays in mask.items() if "_streams/" in name} == {
    "kernel": True,
    "bias": False,
    "scale": False,
  }
  embedding = tiny.shapes(tiny.model(expand="embedding"))
  assert not hc.decay_mask(embedding)["expand_streams"]["bias"]
  assert hc.param_count(embedding).embedding == plain.embedding


def test_ends_of_a_users_own_module_count_too():
  class Mine(nn.Module):
    @nn.compact
    def __call__(self, x):
      return hc.Reduce(kind="head")(hc.Expand(2, kind="scaling")(x))

  params = jax.eval_shape(Mine().init, jax.random.key(0), np.ones((3, 8), np.float32))["params"]
  assert set(params) == {"Expand_0", "Reduce_0"}
  found = hc.param_count(params)
  assert found.connection == found.total == 2 * 8 + 2 * 8 * 2 + 3


@pytest.mark.parametrize(
  "make, words",
  [
    (lambda: hc.Expand(2, kind="linear"), "expand='linear' is unknown; choose one of copy"),
    (lambda: hc.Expand(4, 3, kind="scaling"), "a width of 8 cannot be cut into 3 fractions"),
    (lambda: hc.Expand(2, 4), "2 streams cannot hold 4 fractions"),
  ],
)
def test_what_expand_refuses(make, words):
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(make().init, jax.random.key(0), np.ones((3, 8), np.float32))


def test_what_reduce_refuses():
  streams = np.ones((3, 2, 8), np.float32)
  for reduce, words in (
    (hc.Reduce(kind="max"), "reduce='max' is unknown; choose one of sum, mean, head"),
    (hc.Reduce(3, kind="head"), "2 streams cannot hold 3 fractions"),
  ):
    with pytest.raises(ValueError, match=words):
      jax.eval_shape(reduce.init, jax.random.key(0), streams)


@pytest.mark.parametrize(
  "fields",
  [
    {"expand": "scaling", "reduce": "head"},
    {"expand": "embedding", "reduce": "mean", "connection": FRAC},
    {"layers": ((1, tiny.SHC2), (1, tiny.RESIDUAL)), "reduce": "mean", "attention_views": True},
    {"block": "parallel"},
  ],
)
@pytest.mark.slow
def test_as_its_own_plain_residual_network_neither_end_is_there(fields):
  fields = {"scan": False, **fields}
  model = tiny.model(**fields)
  residual = tiny.model(**{**fields, "connection": tiny.RESIDUAL, "layers": (), "expand": "copy"})
  residual = residual.clone(reduce="sum", attention_views=False)
  params = tiny.params(residual)
  layers = params["stack"]
  if "layers" in fields:
    layers = {f"segment_{i}": {f"layer_{i}": layers[f"layer_{i}"]} for i in range(2)}
  same = {**params, "stack": layers}
  with hc.plain_residual():
    chex.assert_trees_all_equal_shapes(nn.unbox(tiny.shapes(model)), same)
    found = jit(lambda p: model.apply({"params": p}, tiny.TOKENS))(same)
  expected = jit(lambda p: residual.apply({"params": p}, tiny.TOKENS))(params)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
