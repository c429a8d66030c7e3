"""One switch makes a model its own plain residual network."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal
from tests.models import tiny

X = normal("x", 2, 5, 8)


class Net(nn.Module):
  """A user's model: knows nothing of the switch."""

  connection: str = "hc"
  n: int = 4
  fractions: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    streams = hc.expand(nn.Dense(8, name="embed")(x).astype(self.dtype), self.n, self.fractions)
    for index in range(3):
      fields = {"num_streams": self.n, "fractions": self.fractions}
      connection = hc.make_connection(self.connection, fields)()
      h, coefs = connection(streams, index)
      streams = connection.write(streams, nn.Dense(8, dtype=self.dtype)(nn.LayerNorm()(h)), coefs)
    return nn.LayerNorm(name="final")(hc.reduce(streams, self.fractions))


class ByHand(nn.Module):
  """x + F(x)."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(8, name="embed")(x).astype(self.dtype)
    for _ in range(3):
      x = x + nn.Dense(8, dtype=self.dtype)(nn.LayerNorm()(x))
    return nn.LayerNorm(name="final")(x.astype(jnp.float32))


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"connection": "frac", "fractions": 4},
    {"connection": "ghc", "n": 3, "fractions": 2},
    {"connection": "altup", "n": 2},
    {"dtype": jnp.bfloat16},
  ],
  ids=lambda f: f.get("connection", "hc"),
)
def test_it_is_the_handwritten_residual_model_bit_for_bit(fields):
  model, hand = Net(**fields), ByHand(fields.get("dtype", jnp.float32))
  variables = jit(hc.as_residual(model).init)(jax.random.key(0), X)
  want = jit(hand.init)(jax.random.key(0), X)
  chex.assert_trees_all_equal(variables, want)
  # Not compiled as a whole: XLA may leave out roundings to bf16, here and there differently.
  out = hand.apply(want, X)
  np.testing.assert_array_equal(hc.as_residual(model).apply(variables, X), out)
  with hc.plain_residual():
    np.testing.assert_array_equal(model.apply(variables, X), out)
  full = nn.unbox(jit(model.init)(jax.random.key(0), X))
  full["params"] |= want["params"]  # parameters of connections are not looked at
  np.testing.assert_array_equal(hc.as_residual(model).apply(full, X), out)


@pytest.mark.parametrize("name", hc.CONNECTIONS)
def test_it_knows_every_variant(name):
  instance = hc.make_connection(name)(parent=None)
  model = Net(name, instance.num_streams or 4, instance.fractions)
  plain = jax.eval_shape(hc.as_residual(model).init_with_output, jax.random.key(0), X)
  chex.assert_trees_all_equal_shapes_and_dtypes(
    plain, jax.eval_shape(ByHand().init_with_output, jax.random.key(0), X)
  )


def test_nothing_of_the_streams_is_left():
  variables = jax.eval_shape(ByHand().init, jax.random.key(0), X)
  compiled = [
    jax.jit(model.apply).lower(variables, X).compile().cost_analysis()
    for model in (hc.as_residual(Net()), ByHand())
  ]
  for key in ("flops", "bytes accessed"):
    assert compiled[0][key] == compiled[1][key]


def test_compiled_functions_are_never_mistaken():
  """All caches that hold a trace: jit around, jit inside of the model, a cached init."""
  inner = jax.jit(lambda x: hc.expand(x, 3))
  outer = jax.jit(lambda x: hc.reduce(inner(x)))
  for _ in range(2):
    assert inner(X).shape == (2, 5, 3, 8)
    np.testing.assert_allclose(outer(X), 3 * X, rtol=1e-6)
    with hc.plain_residual():
      assert inner(X).shape == (2, 5, 1, 8)
      np.testing.assert_array_equal(outer(X), X)
  model = Net(n=1)  # one stream either way: shapes tell nothing
  init = jit(model.init)
  assert "HyperConnection_0" in init(jax.random.key(0), X)["params"]
  with hc.plain_residual():
    assert "HyperConnection_0" not in init(jax.random.key(0), X)["params"]
  assert "HyperConnection_0" in init(jax.random.key(0), X)["params"]


@pytest.mark.parametrize(
  "fields",
  [{"scan": True, "remat": "full"}, pytest.param({"scan": False}, marks=pytest.mark.slow)],
  ids=str,
)
@pytest.mark.slow
def test_our_language_model(fields):
  make = functools.partial(tiny.model, **fields)
  model, residual = make(connection=hc.HyperConnection), make(connection=hc.Residual)
  tokens = jnp.zeros((2, 8), jnp.int32).at[:, ::3].set(3)
  plain = hc.as_residual(model)
  variables = jit(plain.init)(jax.random.key(0), tokens)
  want = jit(residual.init)(jax.random.key(0), tokens)
  chex.assert_trees_all_equal(nn.unbox(variables), nn.unbox(want))
  np.testing.assert_array_equal(
    jit(plain.apply)(variables, tokens), jit(residual.apply)(want, tokens)
  )
  grads = [jit(jax.grad(lambda v, m=m: m.apply(v, tokens).std()))(want) for m in (plain, residual)]
  chex.assert_trees_all_equal(*grads)
  with hc.plain_residual():  # other methods
    hidden = jit(lambda v: model.apply(v, tokens, method="hidden"))(variables)
  assert hidden.shape == (2, 8, 16)


def test_inside_of_another_module():
  class Both(nn.Module):
    @nn.compact
    def __call__(self, x):
      return hc.as_residual(Net(name="a"))(x), Net(name="b")(x)

  params = jit(Both().init)(jax.random.key(0), X)["params"]
  residual, full = (
    {p.split("/")[1] for p, _ in hc.params.named_leaves({"": v})}
    for v in (params["a"], params["b"])
  )
  assert residual < full and "HyperConnection_0" in full - residual


def test_streams_from_elsewhere_are_refused():
  streams = hc.expand(X, 4)
  with hc.plain_residual():
    with pytest.raises(ValueError, match="expand within it too"):
      hc.HyperConnection(num_streams=4).init(jax.random.key(0), streams, 0)
    with pytest.raises(ValueError, match="expand within it too"):
      hc.reduce(streams)
  with pytest.raises(TypeError, match=r"Linen or NNX module, not function.*plain_residual"):
    hc.as_residual(lambda x: x)
