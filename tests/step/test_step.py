"""The pure functions of a step, compared with the definitions and between meshes."""

import functools
import math
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hc_jax import models, sharding
from hc_jax.step.evaluate import totals
from hc_jax.step.feed import to_devices
from hc_jax.step.loss import (
  batch_nats,
  summary,
  token_init,
  token_loss,
  token_nats,
  token_weight,
)
from hc_jax.step.step import jit_train_step, split_batch
from hc_jax.train import (
  Task,
  TrainState,
  abstract_state,
  create_state,
  eval_step,
  make_optimizer,
  train_step,
)
from hc_jax.train.debug_nans import find_nonfinite, in_forward
from tests.train import tiny

VOCAB = 64  # divides over every mesh, so that the split vocabulary is tested too


def batch(seed=0, rows=8, length=8):
  rng = np.random.default_rng(seed)
  return {
    "inputs": rng.integers(0, VOCAB, (rows, length), np.int32),
    "targets": rng.integers(0, VOCAB, (rows, length), np.int32),
    # Rows count different numbers of tokens, so that a mean of means would be another loss.
    "mask": (np.arange(length) < rng.integers(1, length + 1, (rows, 1))).astype(np.float32),
  }


class Bigram(nn.Module):
  """Model that predicts the next token from the current one; it compiles quickly."""

  dropout: float = 0.0

  @nn.compact
  def __call__(self, tokens, *, segment_ids=None, deterministic=True):
    init = nn.initializers.normal(1.0)
    table = self.param(
      "embedding", nn.with_logical_partitioning(init, ("vocab", "embed")), (VOCAB, 8)
    )
    kernel = self.param(
      "kernel", nn.with_logical_partitioning(init, ("embed", "vocab")), (8, VOCAB)
    )
    return nn.Dropout(self.dropout)(table[tokens], deterministic=deterministic) @ kernel


@functools.cache
def task(model=Bigram()):  # noqa: B008 (a module is a frozen dataclass)
  config = tiny.config(model__num_layers=1, model__scan=False, model__dropout=0.0)
  config.optim.warmup_steps = 0
  config.optim.schedule = "linear"  # the rate of each step differs from that of its neighbours
  if model == "lm":
    model = models.make_model(config.model, vocab_size=VOCAB)
  return model, *make_optimizer(config.optim, 20)


def stepper(mesh, preset="dp", model=Bigram(), **kwargs):  # noqa: B008
  """Returns a state on the mesh and the jitted step."""
  model, optimizer, schedule = task(model)
  where = {"mesh": mesh, "preset": preset}
  state = create_state(token_init(model), optimizer, 0, **where)
  step = jit_train_step(
    abstract_state(token_init(model), optimizer, **where),
    loss=token_loss(model),
    weight=token_weight,
    optimizer=optimizer,
    schedule=schedule,
    **kwargs,
  )
  return state, step


@functools.cache
def alone(model=Bigram()):  # noqa: B008
  """Takes two steps on one device; returns the states and metrics."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  with sharding.use_mesh(mesh):
    state, step = stepper(mesh, model=model)
    before = jax.device_get(state)
    seen = []
    for i in range(2):
      state, metrics = step(state, to_devices(batch(i), mesh))
      seen.append(jax.device_get(metrics))
  return before, jax.device_get(state), seen


def test_token_nats_is_cross_entropy_with_its_gradient():
  logits = 3 * jax.random.normal(jax.random.key(0), (4, 5, VOCAB))
  targets = jax.random.randint(jax.random.key(1), (4, 5), 0, VOCAB)
  expected = optax.softmax_cross_entropy_with_integer_labels
  chex.assert_trees_all_close(token_nats(logits, targets), expected(logits, targets), atol=1e-6)
  grads = [jax.grad(lambda x, f=f: jnp.sum(f(x, targets)))(logits) for f in (token_nats, expected)]
  chex.assert_trees_all_close(*grads, atol=1e-6)
  low = token_nats(logits.astype(jnp.bfloat16), targets)
  assert low.dtype == jnp.float32


def test_metrics_are_what_they_say():
  before, after, seen = alone()
  model, optimizer, schedule = task()
  rates = [float(schedule(step)) for step in range(3)]
  assert rates[0] > 1.02 * rates[1] > 1.02**2 * rates[2]

  @jax.jit
  def by_hand(params, opt_state, data):
    mean = lambda p: jnp.sum(batch_nats(model, p, data)) / jnp.sum(data["mask"])  # noqa: E731
    loss, grads = jax.value_and_grad(mean)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return params, opt_state, loss, *map(optax.tree.norm, (grads, updates, params))

  params, opt_state = before.params, optimizer.init(before.params)
  for step, found in enumerate(seen):
    params, opt_state, loss, grad, update, param = by_hand(params, opt_state, batch(step))
    assert found["train/loss"] == pytest.approx(float(loss), rel=1e-6)
    assert found["train/grad_norm"] == pytest.approx(float(grad), rel=1e-5)
    assert found["train/update_norm"] == pytest.approx(float(update), rel=1e-4)
    assert found["train/param_norm"] == pytest.approx(float(param), rel=1e-5)
    assert found["train/learning_rate"] == pytest.approx(rates[step])
  assert int(after.step) == 2


def test_accumulation_equals_the_whole_batch():
  _, expected, seen = alone()
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  with sharding.use_mesh(mesh):
    state, step = stepper(mesh, accumulation=4)
    for i in range(2):
      state, metrics = step(state, to_devices(batch(i), mesh))
      chex.assert_trees_all_close(metrics, seen[i], rtol=1e-5)
  # AdamW divides by the gradient's size, which magnifies the rounding of tiny gradients.
  chex.assert_trees_all_close(state.params, expected.params, atol=1e-4)
  assert step._cache_size() == 1


def test_parts_are_rows_dealt_out_in_turn():
  parts = split_batch({"x": jnp.arange(6)}, 2)["x"]
  np.testing.assert_array_equal(parts, [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize(
  ("preset", "sizes"),
  [
    pytest.param("fsdp_tp", {"data": 2, "fsdp": 2, "tensor": 2}, marks=pytest.mark.slow),
    pytest.param("fsdp", {"data": 2, "fsdp": 4}, marks=pytest.mark.exhaustive),
    pytest.param("dp", {"data": 8}, marks=pytest.mark.exhaustive),
  ],
)
def test_eight_devices_give_the_numbers_of_one(preset, sizes):
  before, expected, seen = alone("lm")
  mesh = sharding.make_mesh(preset, **sizes)
  with sharding.use_mesh(mesh, preset):
    state, step = stepper(mesh, preset, "lm")
    chex.assert_trees_all_close(jax.device_get(state.params), before.params, atol=1e-6)
    for i in range(2):
      state, metrics = step(state, to_devices(batch(i), mesh))
      chex.assert_trees_all_close(jax.device_get(metrics), seen[i], rtol=1e-5)
  chex.assert_trees_all_close(jax.device_get(state.params), expected.params, atol=1e-4)
  assert step._cache_size() == 1
  if preset != "dp":
    kernel = state.params["stack"]["layer_0"]["ffn"]["in_kernel"]
    # The kernel is split over its axes, and so is its optimizer state.
    shard = kernel.addressable_shards[0].data.shape
    assert shard == (16 // mesh.shape["fsdp"], 64 // mesh.shape["tensor"])
    moments = state.opt_state[1][0].mu["stack"]["layer_0"]["ffn"]["in_kernel"]
    assert moments.sharding == kernel.sharding


def test_dropout_depends_on_the_step_and_on_nothing_else():
  model, optimizer, schedule = task(Bigram(dropout=0.5))
  bound = {"loss": token_loss(model), "weight": token_weight}
  bound |= {"optimizer": optimizer, "schedule": schedule}
  before = alone()[0]
  # Returns only the loss, so that the update is not compiled.
  loss = jax.jit(lambda state, data: train_step(state, data, **bound)[1]["train/loss"])
  found = []
  for devices in (1, 8):  # a row's dropout must not depend on its device
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    with sharding.use_mesh(mesh):
      state, data = jax.device_put(before, sharding.replicated(mesh)), to_devices(batch(), mesh)
      first, again = loss(state, data), loss(state, data)
      later = loss(state.replace(step=state.step + 1), data)
    found.append((first, later))
    assert first == again and first != later
  quiet = jnp.sum(batch_nats(model, before.params, batch())) / jnp.sum(batch()["mask"])
  assert found[0][0] != quiet
  np.testing.assert_allclose(*found, rtol=1e-5)


class Keys(nn.Module):
  """Model that gives its dropout key to `seen`; its logits are zeros."""

  seen: Callable[[np.ndarray], None]

  @nn.compact
  def __call__(self, tokens, *, segment_ids=None, deterministic=True):
    scale = self.param("scale", nn.initializers.zeros, ())
    if not deterministic:
      jax.debug.callback(self.seen, jax.random.key_data(self.make_rng("dropout")))
    return jnp.zeros((*tokens.shape, VOCAB)) * scale


def test_every_micro_step_of_every_step_and_seed_has_a_key_of_its_own():
  """The search for a NaN repeats a step with the step's own keys."""
  seen = []
  model = Keys(lambda key: seen.append(tuple(key.tolist())))
  optimizer = optax.sgd(0.1)

  def state(seed, step=0):
    params = {"scale": np.zeros((), np.float32)}
    rng = np.asarray(jax.random.key_data(jax.random.key(seed)))
    return TrainState(np.int32(step), params, optimizer.init(params), rng)

  def keys_of(function, *args):
    seen.clear()
    jax.block_until_ready(function(*args))
    jax.effects_barrier()
    return list(seen)

  bound = {"loss": token_loss(model), "weight": token_weight, "optimizer": optimizer}
  bound["accumulation"] = 3
  step = jax.jit(jax.vmap(functools.partial(train_step, **bound), in_axes=(0, None)))
  both = jax.tree.map(lambda *leaves: np.stack(leaves), state(0), state(1))
  later = both.replace(step=both.step + 1)
  keys = [keys_of(step, start, batch(rows=3, length=2)) for start in (both, later)]
  assert [len(of_step) for of_step in keys] == [2 * 3, 2 * 3]
  assert len(set(keys[0] + keys[1])) == 2 * 2 * 3
  locate = functools.partial(in_forward, model)
  searched = Task(
    token_init(model),
    bound["loss"],
    token_weight,
    list,
    locate=locate,
  )
  again = keys_of(find_nonfinite, searched, state(1, step=1), batch(rows=3, length=2), 3)
  assert set(again) < set(keys[1]) and len(set(again)) == 3


def test_evaluation_leaves_out_masked_and_special_tokens():
  model, *_ = task()
  params, data = alone()[0].params, batch()
  token_bytes = np.ones(VOCAB, np.int32)
  token_bytes[:10] = 0  # special
  token_bytes[10:20] = 3
  sums = jax.jit(functools.partial(eval_step, model=model))(params, data, token_bytes=token_bytes)
  nats, mask = np.asarray(batch_nats(model, params, data)), data["mask"] > 0
  text = mask & (data["targets"] >= 10)
  size = token_bytes[data["targets"]][text].sum()
  found = summary(totals([jax.device_get(sums)]))
  assert found["val/loss"] == pytest.approx(nats[mask].mean(), rel=1e-5)
  assert found["val/bpb"] == pytest.approx(nats[text].sum() / (math.log(2) * size), rel=1e-5)
  halves = [{k: v[i : i + 4] for k, v in data.items()} for i in (0, 4)]
  split = [
    jax.device_get(eval_step(params, h, model=model, token_bytes=token_bytes)) for h in halves
  ]
  assert summary(totals(split)) == pytest.approx(found, rel=1e-5)
