"""Tests that NNX connections equal the Linen ones bitwise, and that docs/nnx.md is right."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import hc_jax as hc
from hc_jax.connections import connection_factory
from hc_jax.testing.compiled import jit, normal
from tests.test_docs import ROOT, run

X = normal("x", 2, 5, 8)


class Linen(nn.Module):
  """The model of the page, in Linen."""

  @nn.compact
  def __call__(self, x):
    streams = hc.expand(x, 4)
    for i in range(3):
      connection = hc.HyperConnection(num_streams=4, name=f"connection{i}")
      h, coefs = connection(streams, i)
      h = nn.LayerNorm(name=f"norm{i}")(h)
      y = nn.Dense(8, name=f"dense{i}")(nn.gelu(h))
      streams = connection.write(streams, y, coefs)
    return nn.LayerNorm(name="final")(hc.reduce(streams))


@pytest.fixture(scope="module")
def page():
  return run(ROOT / "docs" / "nnx.md")


def kick(model):
  """Moves the parameters away from their initial values, in place."""
  for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    leaf[...] = leaf[...] + 0.2 * normal("/".join(map(str, path)), *leaf.shape)


def as_linen(state):
  """Returns NNX parameters, or their gradients, under the names of the Linen model."""
  params = {}
  for path, leaf in nnx.to_flat_state(state):
    *module, name = path
    key = f"{module[2]}{module[1]}" if module[0] == "blocks" else "final"
    params.setdefault(key, {})[name] = jnp.asarray(leaf[...])
  return params


def loss(out):
  return jnp.sum(jnp.sin(3 * out) * normal("loss", *out.shape))


def distance(a, b):
  a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
  return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.slow
def test_sites_start_by_their_index(page):
  model = page["Model"](8, 3, rngs=nnx.Rngs(0))
  for i, block in enumerate(model.blocks):
    np.testing.assert_array_equal(block.connection.static_read[...], np.eye(4)[None, i])


@pytest.mark.slow
def test_outputs_and_gradients_are_those_of_linen(page):
  model = page["Model"](8, 3, rngs=nnx.Rngs(0))
  kick(model)
  params = as_linen(nnx.state(model, nnx.Param))
  shapes = jax.eval_shape(Linen().init, jax.random.key(0), X)["params"]
  assert jax.tree.structure(nn.unbox(shapes)) == jax.tree.structure(params)

  want, grads = jit(
    jax.value_and_grad(
      lambda p: (lambda out: (loss(out), out))(Linen().apply({"params": p}, X)), has_aux=True
    )
  )(params)
  assert distance(page["forward"](model, X), want[1]) < 1e-6
  found = nnx.jit(nnx.grad(lambda model: loss(model(X))))(model)
  assert distance(as_linen(found), grads) < 1e-6
  assert all(np.any(g) for g in jax.tree.leaves(grads))

  with hc.plain_residual():
    plain = page["forward"](model, X)
  assert distance(plain, hc.as_residual(Linen()).apply({"params": params}, X)) < 1e-6
  assert distance(page["forward"](model, X), want[1]) < 1e-6  # the switch must be off again


NAMES = [name for name, cls in hc.CONNECTIONS.items() if cls.__module__.startswith("hc_jax.")]


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=[] if n == "hc" else pytest.mark.exhaustive) for n in NAMES]
)
def test_a_connection_is_bitwise_the_linen_one(name):
  cls = connection_factory(hc.CONNECTIONS[name], num_sites=3)
  module = getattr(hc.nnx, cls.func.__name__)(8, 1, rngs=nnx.Rngs(0), **cls.keywords)
  assert type(module).__name__ == cls.func.__name__
  n, m = module.module.num_streams, module.module.fractions
  streams, y = normal("streams", 2, 3, n, 8 // m), normal("y", 2, 3, 8)
  kick(module)
  params = {str(p[0]): leaf[...] for p, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))}
  linen = cls()
  shapes = jax.eval_shape(linen.init, jax.random.key(0), streams, 1).get("params", {})
  assert {k: a.shape for k, a in params.items()} == {k: a.shape for k, a in shapes.items()}

  def of_linen(params, streams, y):
    h, coefs = linen.apply({"params": params}, streams, 1)
    out = linen.apply({"params": params}, streams, y, coefs, method="write")
    return loss(h) + loss(out), (h, out)

  def of_nnx(module, streams, y):
    h, coefs = module(streams)
    out = module.write(streams, y, coefs)
    return loss(h) + loss(out), (h, out)

  want = jit(jax.value_and_grad(of_linen, has_aux=True))(params, streams, y)
  found = nnx.jit(nnx.value_and_grad(of_nnx, has_aux=True))(module, streams, y)
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found[0], want[0]))
  grads = {str(p[0]): leaf[...] for p, leaf in nnx.to_flat_state(found[1])}
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), grads, want[1]))


def test_initial_values_are_those_of_linen_with_the_same_key():
  module = hc.nnx.MHC(8, 1, rngs=nnx.Rngs(params=jax.random.key(3)))
  key = nnx.Rngs(params=jax.random.key(3)).params()
  want = hc.MHC().init(key, np.zeros((1, 4, 8), np.float32), 1)["params"]
  for name, value in want.items():
    np.testing.assert_array_equal(getattr(module, name)[...], value)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="d_model=9 cannot be cut into fractions=4"):
    hc.nnx.FracConnection(9, 0, rngs=nnx.Rngs(0))
  with pytest.raises(AttributeError, match=r"hc_jax\.nnx has no 'Hyper'; it has Residual"):
    hc.nnx.Hyper  # noqa: B018
  with hc.plain_residual():
    plain = hc.nnx.HyperConnection(8, 0, rngs=nnx.Rngs(0))
  assert not jax.tree.leaves(nnx.state(plain))


@pytest.mark.slow
def test_nnx_takes_it_as_any_other_module(tmp_path):
  """Tries an optimizer, remat, split and merge, a restored checkpoint, and seeds under vmap."""
  streams = normal("streams", 2, 3, 4, 8)
  cost = lambda module: jnp.mean((module(streams)[0] - 1) ** 2)  # noqa: E731
  module = hc.nnx.HyperConnection(8, 0, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(module, optax.adam(1e-2), wrt=nnx.Param)

  @nnx.jit
  def step(module, optimizer):
    value, grads = nnx.value_and_grad(cost)(module)
    optimizer.update(module, grads)
    return value

  values = [float(step(module, optimizer)) for _ in range(5)]
  assert values[-1] < values[0]

  plain, again = (nnx.grad(f)(module) for f in (cost, nnx.remat(cost)))
  assert distance(jax.tree.leaves(plain), jax.tree.leaves(again)) < 1e-6

  graph, state = nnx.split(module)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "site", nnx.to_pure_dict(state))
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "site")
  nnx.replace_by_pure_dict(state, restored)
  np.testing.assert_array_equal(nnx.merge(graph, state)(streams)[0], module(streams)[0])

  make = nnx.vmap(lambda key: hc.nnx.HyperConnection(8, 0, rngs=nnx.Rngs(params=key)))
  seeds = make(jax.random.split(jax.random.key(0), 3))
  out = nnx.vmap(lambda module, x: module(x)[0], in_axes=(0, None))(seeds, streams)
  assert out.shape == (3, 2, 3, 8)
  mask = hc.decay_mask(nnx.state(module, nnx.Param))
  assert sum(jax.tree.leaves(mask)) == 1  # only the kernel
