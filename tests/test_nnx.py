"""The recipe of docs/nnx.md against the same model in Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal
from tests.test_docs import ROOT, run

X = normal("x", 2, 5, 8)
pytestmark = pytest.mark.slow


class Linen(nn.Module):
  """The model of the page."""

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
  """NNX parameters, or their gradients, under the names of the Linen model."""
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


def test_sites_start_by_their_index(page):
  with nnx.use_eager_sharding(False):
    model = page["Model"](8, 3, rngs=nnx.Rngs(0))
  for i, block in enumerate(model.blocks):
    np.testing.assert_array_equal(block.connection.static_read[...], np.eye(4)[None, i])


def test_outputs_and_gradients_are_those_of_linen(page):
  with nnx.use_eager_sharding(False):
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
  assert distance(page["forward"](model, X), want[1]) < 1e-6  # the switch is off again
