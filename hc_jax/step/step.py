"""The pure functions of training: loss, one optimizer step, one batch of evaluation."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hc_jax.step.loss import Batch, batch_nats
from hc_jax.step.state import TrainState

PyTree = Any


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  accumulation: int = 1,
  loss_parts: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer step over a batch that is taken in `accumulation` parts.

  Every part is weighted by the tokens that count in it, so that the gradient is that of the whole
  batch whatever the parts. Pure: jit it with the keywords bound and `state` donated.

  Args:
    state: before the step.
    batch: arrays `[B, L]`; B is a multiple of `accumulation`. Part i takes every
      `accumulation`-th row, which keeps each device's rows on it.
    model: see `batch_nats`.
    optimizer: of `make_optimizer`.
    schedule: its learning rate by step, for the record.
    accumulation: parts, one after the other.
    loss_parts: see `batch_nats`.

  Returns:
    The state after the step and float32 scalars: `train/loss` in nats per token, `train/grad_norm`
    before clipping, `train/param_norm` after the step, `train/update_norm`, `train/learning_rate`.
  """
  key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  tokens = jnp.maximum(jnp.sum(batch["mask"]), 1.0)

  def loss_of(params: PyTree, part: Batch, index: jax.Array | int) -> jax.Array:
    dropout = jax.random.fold_in(key, index)
    return jnp.sum(batch_nats(model, params, part, dropout, loss_parts)) / tokens

  loss, grads = _accumulate(jax.value_and_grad(loss_of), state.params, batch, accumulation)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics = {
    "train/loss": loss,
    "train/grad_norm": optax.tree.norm(grads),
    "train/param_norm": optax.tree.norm(params),
    "train/update_norm": optax.tree.norm(updates),
    "train/learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
  }
  return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics


def split_batch(batch: Batch, accumulation: int) -> Batch:
  """`[B, ...]` -> `[accumulation, B / accumulation, ...]`, part i holding rows i, i + A, ..."""
  return jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)


def _accumulate(value_and_grad: Any, params: PyTree, batch: Batch, accumulation: int) -> Any:
  """Sums loss and gradients over the parts of a batch; one part's activations live at a time."""
  if accumulation == 1:
    return value_and_grad(params, batch, 0)

  def add(total: PyTree, indexed: tuple[jax.Array, Batch]) -> tuple[PyTree, None]:
    index, part = indexed
    return jax.tree.map(jnp.add, total, value_and_grad(params, part, index)), None

  zero = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, params))
  parts = (jnp.arange(accumulation), split_batch(batch, accumulation))
  return jax.lax.scan(add, zero, parts)[0]


def eval_step(
  params: PyTree,
  batch: Batch,
  *,
  model: nn.Module,
  token_bytes: jax.Array,
  loss_parts: int = 1,
) -> dict[str, jax.Array]:
  """Sums over one batch, without dropout, from which `hc_jax.step.evaluate` makes means.

  Args:
    params: of the model.
    batch: see `batch_nats`.
    model: see `batch_nats`.
    token_bytes: int32 `[V]`, bytes of text that a token stands for, 0 for special tokens.
    loss_parts: see `batch_nats`.

  Returns:
    Scalars: `nats` and `tokens` over tokens that count; `text_nats` and `bytes` over those of them
    that stand for text.
  """
  nats = batch_nats(model, params, batch, loss_parts=loss_parts)
  counts = batch["mask"] > 0
  size = jnp.where(counts, token_bytes[batch["targets"]], 0)
  return {
    "nats": jnp.sum(nats),
    "tokens": jnp.sum(batch["mask"]),
    "text_nats": jnp.sum(jnp.where(size > 0, nats, 0.0)),
    "bytes": jnp.sum(size),
  }


def jit_train_step(abstract: TrainState, donate: bool = True, **static: Any) -> Any:
  """`train_step` jitted with its keywords bound; its state stays where `abstract` says, in place.

  Args:
    abstract: of `abstract_state`.
    donate: whether the state's buffers are given up to the next state.
    **static: the keywords of `train_step`.
  """
  where = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  return jax.jit(
    functools.partial(train_step, **static),
    donate_argnums=(0,) if donate else (),
    out_shardings=(where, None),
  )
