"""Groups of blocks, saved and computed again as one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hc_jax.models import Stack, TokenContext, unstack_layers
from hc_jax.testing.compiled import jit, normal

LAYERS = 6


class Small(nn.Module):
  """Depends on its parameters, the layer's number and the order of both."""

  @nn.compact
  def __call__(self, streams, layer, context):
    kernel = nn.with_partitioning(nn.initializers.normal(0.5), (None, None))
    y = jnp.tanh(nn.Dense(3, kernel_init=kernel)(streams) + 0.1 * layer)
    return streams + y * context.positions[..., None, None]


STREAMS = normal("streams", 2, 4, 2, 3)
CONTEXT = TokenContext(positions=jnp.arange(4, dtype=jnp.float32)[None])


def stack(scan, remat):
  return Stack(Small, LAYERS, scan=scan, remat=remat)


@functools.cache
def boxed():
  return stack(True, "none").init(jax.random.key(0), STREAMS, CONTEXT)["params"]


@functools.cache
def value_and_grad(scan, remat):
  def loss(params, streams):
    return jnp.sum(jnp.square(stack(scan, remat).apply({"params": params}, streams, CONTEXT)))

  params = nn.unbox(boxed())
  params = params if scan else unstack_layers(params)
  grads = jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, STREAMS)
  value, (of_params, of_streams) = jax.device_get(grads)
  return value, unstack_layers(of_params) if scan else of_params, of_streams


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("remat", ["blocks:2", "blocks:3", "blocks:6"])
def test_groups_change_no_value_and_no_gradient(scan, remat):
  expected, got = value_and_grad(True, "none"), value_and_grad(scan, remat)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), expected, got)


def test_only_the_groups_inputs_are_saved():
  def saved(scan, remat):
    """Numbers that the forward pass hands to the backward pass, parameters apart."""
    params = nn.unbox(boxed())
    params = params if scan else unstack_layers(params)
    apply = lambda s: stack(scan, remat).apply({"params": params}, s, CONTEXT)  # noqa: E731
    _, pull = jax.eval_shape(lambda s: jax.vjp(apply, s), STREAMS)
    return [a.size for a in jax.tree.leaves(pull) if a.shape[-4:] == STREAMS.shape]

  size = STREAMS.size
  assert sum(saved(True, "full")) == LAYERS * size
  assert sum(saved(True, "blocks:3")) == LAYERS // 3 * size
  assert sum(saved(False, "full")) == LAYERS * size
  assert sum(saved(False, "blocks:3")) == LAYERS // 3 * size
  assert sum(saved(True, "none")) > LAYERS * size


def test_parameters_are_those_of_no_remat():
  for scan in (True, False):
    shapes = [
      jax.eval_shape(stack(scan, remat).init, jax.random.key(0), STREAMS, CONTEXT)
      for remat in ("none", "blocks:2")
    ]
    assert shapes[0] == shapes[1]


def test_parameters_may_carry_the_names_of_their_axes():
  out = stack(True, "blocks:2").apply({"params": boxed()}, STREAMS, CONTEXT)
  plain = stack(True, "none").apply({"params": nn.unbox(boxed())}, STREAMS, CONTEXT)
  np.testing.assert_allclose(out, plain, rtol=1e-5)


@pytest.mark.parametrize(
  "remat, words",
  [
    ("blocks:4", "groups of 4 blocks, but there are 6: choose 'blocks:2' or 'blocks:3'"),
    ("blocks:0", "unknown"),
    ("blocks", "blocks:4"),
  ],
)
def test_what_does_not_fit_is_refused(remat, words):
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(stack(True, remat).init, jax.random.key(0), STREAMS, CONTEXT)
