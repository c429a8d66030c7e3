"""The first value that is NaN or infinite is named, wherever it arises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hc_jax import models
from hc_jax.axes import unboxed
from hc_jax.step.loss import token_loss, token_weight
from hc_jax.testing.compiled import jit
from hc_jax.train import Task, TrainState
from hc_jax.train.debug_nans import find_nonfinite, in_forward
from tests.train import tiny


def setup_of(scan, **changes):
  changes = {"model__dropout": 0.0, "model__norm_params": True, **changes}
  config = tiny.config(model__scan=scan, **changes)
  model = models.make_model(config.model, vocab_size=8)
  tokens = jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
  params = unboxed(jit(model.init)(jax.random.key(0), tokens)["params"])
  batch = {"inputs": tokens, "targets": tokens, "mask": jnp.ones((2, 4))}
  return model, params, batch


def found(model, params, batch, **kwargs):
  state = TrainState(jnp.zeros((), jnp.int32), params, (), jax.random.key_data(jax.random.key(0)))
  locate = functools.partial(in_forward, model)
  task = Task(None, token_loss(model), token_weight, None, locate=locate)
  return find_nonfinite(task, state, batch, **kwargs)


def with_leaf(params, path, change):
  *parents, name = path.split("/")
  params = jax.tree.map(lambda x: x, params)
  node = params
  for parent in parents:
    node = node[parent]
  node[name] = change(node[name])
  return params


@pytest.mark.parametrize(
  "scan",
  [pytest.param(True, marks=pytest.mark.slow), pytest.param(False, marks=pytest.mark.exhaustive)],
)
def test_the_first_site_in_order_of_execution_is_named(scan):
  model, params, batch = setup_of(scan)
  path = "stack/layers/ffn" if scan else "stack/layer_1/ffn"
  huge = (lambda x: x.at[1].set(3e38)) if scan else (lambda x: jnp.full_like(x, 3e38))
  where = f"layer 1, sublayer ffn, module {path} (output)"
  # Finite parameters whose product overflows in the last layer, and so in everything after it.
  poisoned = with_leaf(params, f"{path}/out_kernel", huge)
  poisoned = with_leaf(poisoned, f"{path}/in_kernel", lambda x: 1e10 * x)
  assert found(model, poisoned, batch) in (
    f"infinity first appears at {where}",
    f"NaN first appears at {where}",
  )
  assert found(model, poisoned, batch, accumulation=2).endswith(", micro-step 0 of 2")


@pytest.mark.slow
def test_layers_of_scanned_segments_are_counted_through():
  model, params, batch = setup_of(
    True,
    model__layers="((1,'residual'),(2,{'name':'hc','dynamic':False}))",
    model__num_layers=3,
    model__connection__num_streams="none",
  )
  path = "stack/segment_1/layers/ffn"  # whose second layer is the third of the network
  huge = with_leaf(params, f"{path}/out_kernel", lambda x: x.at[1].set(3e38))
  huge = with_leaf(huge, f"{path}/in_kernel", lambda x: 1e10 * x)
  said = found(model, huge, batch)
  assert said.endswith(f"appears at layer 2, sublayer ffn, module {path} (output)"), said


def test_before_and_after_the_layers():
  model, params, batch = setup_of(True)
  huge = with_leaf(params, "final_norm/scale", lambda x: jnp.full_like(x, 3e38))
  assert "module final_norm (output)" in found(model, huge, batch)
  nan = with_leaf(params, "token_embed/embedding", lambda x: x.at[3].set(np.nan))
  assert found(model, nan, batch).startswith("parameter token_embed/embedding was already NaN")


def test_a_finite_forward_pass_with_a_gradient_that_is_not():
  import flax.linen as nn

  class Root(nn.Module):
    """sqrt(w) at w = 0: its value is 0, its slope infinite."""

    @nn.compact
    def __call__(self, tokens, segment_ids=None, deterministic=True):
      kernel = self.param("kernel", nn.initializers.zeros, (8,))
      return jnp.broadcast_to(jnp.sqrt(kernel), (*tokens.shape, 8))

  _, _, batch = setup_of(True)
  said = found(Root(), {"kernel": jnp.zeros(8)}, batch)
  assert said in (
    "the forward pass is finite; infinity first appears in the gradient of kernel",
    "the forward pass is finite; NaN first appears in the gradient of kernel",
  )
