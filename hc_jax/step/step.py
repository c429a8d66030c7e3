"""One optimizer step over a batch of any task, pure."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hc_jax.errors import UserError
from hc_jax.step.state import TrainState
from hc_jax.step.task import Batch, Loss, Variables

PyTree = Any


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  loss: Callable[[Variables, Batch, jax.Array], Loss],
  weight: Callable[[Batch], jax.Array],
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule | None = None,
  accumulation: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one optimizer step over a batch, in `accumulation` parts.

  The sums that `loss` returns are added over the parts and divided by the weight of the whole
  batch. The gradient therefore does not depend on the number of parts. A part sees the collections
  (such as batch_stats) that the part before it returned. The function is pure: jit it with the
  keywords bound and `state` donated.

  Args:
    state: state before the step.
    batch: tree of arrays `[B, ...]`; B is a multiple of `accumulation`. Part i takes the rows
      `i::accumulation`, so that rows stay on their devices.
    loss: loss of a `Task`. Part i of step s (`state.step`, from 0) gets the key
      `fold_in(fold_in(key, s), i)`, where `state.rng` holds the data of `key`.
    weight: weight of a `Task`, above 0.
    optimizer: an optimizer of optax.
    schedule: learning rate by step, for the metrics.
    accumulation: number of parts, at least 1, which run in sequence.

  Returns:
    The state after the step and float32 scalars: `train/loss`, `train/<name>` for each metric of
    the loss, `train/grad_norm` before clipping, `train/param_norm` after the step,
    `train/update_norm`, and `train/learning_rate` with a schedule.

  Raises:
    UserError: if the loss does not return a `Loss` of scalar sums, returns collections that do not
      fit those of the state, or if `accumulation` is below 1 or does not divide B.
  """
  key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  whole = weight(batch)

  def loss_of(params: PyTree, rest: PyTree, part: Batch, index: jax.Array | int) -> Any:
    found = _checked(loss({"params": params, **rest}, part, jax.random.fold_in(key, index)))
    metrics = {name: value / whole for name, value in found.metrics.items()}
    return found.total / whole, (metrics, _carried(rest, found.collections))

  grad = jax.value_and_grad(loss_of, has_aux=True)
  ((total, (metrics, rest)), grads) = _accumulate(
    grad, state.params, state.collections, batch, accumulation
  )
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  values = {
    **{f"train/{name}": value for name, value in metrics.items()},
    "train/loss": total,
    "train/grad_norm": optax.tree.norm(grads),
    "train/param_norm": optax.tree.norm(params),
    "train/update_norm": optax.tree.norm(updates),
  }
  if schedule is not None:
    values["train/learning_rate"] = jnp.asarray(schedule(state.step), jnp.float32)
  after = state.replace(step=state.step + 1, params=params, opt_state=opt_state, collections=rest)
  return after, values


def _checked(found: Loss) -> Loss:
  """Returns the result of a loss unchanged.

  Raises:
    UserError: if the result is not a `Loss`, or holds sums that are not scalars.
  """
  if not isinstance(found, Loss):
    raise UserError(f"Task.loss gives {type(found).__name__}; return hc_jax.train.Loss(total)")
  sums = {"Loss.total": found.total}
  sums |= {f"Loss.metrics[{name!r}]": value for name, value in found.metrics.items()}
  for name, value in sums.items():
    if jnp.shape(value):
      raise UserError(f"{name} is an array {list(jnp.shape(value))}; give its sum, a scalar")
  return found


def _carried(before: Variables, found: Variables) -> dict[str, PyTree]:
  """Returns the collections after a part: those that the loss returned, and the others unchanged.

  Raises:
    UserError: if the loss returned a collection that `init` did not make, or one of another
      structure.
  """
  for name, tree in found.items():
    if name not in before:
      raise UserError(
        f"Loss.collections has {name!r}, which is not one of the collections that Task.init makes "
        f"({', '.join(before) or 'none'}); leave it out, or make it there"
      )
    if jax.tree.structure(tree) != jax.tree.structure(before[name]):
      raise UserError(
        f"Loss.collections[{name!r}] has another structure than Task.init gave it; return the "
        "whole collection"
      )
    shapes = [[_array(leaf) for leaf in jax.tree.leaves(values)] for values in (before[name], tree)]
    if other := [(was, now) for was, now in zip(*shapes, strict=True) if was != now]:
      was, now = other[0]
      raise UserError(
        f"Loss.collections[{name!r}] has an array {now} that Task.init makes {was}; keep shapes "
        "and types as they were"
      )
  return {**before, **found}


def _array(leaf: Any) -> str:
  return f"{jnp.result_type(leaf)}[{','.join(map(str, jnp.shape(leaf)))}]"


def split_batch(batch: Batch, accumulation: int) -> Batch:
  """Returns `[B, ...]` as `[accumulation, B / accumulation, ...]`, part i of rows i, i + A, ...

  Raises:
    UserError: if B is not a multiple of `accumulation`.
  """
  rows = next((leaf.shape[0] for leaf in jax.tree.leaves(batch)), 0)
  if rows % accumulation:
    raise UserError(
      f"`accumulation={accumulation}` does not divide the {rows} rows of a batch; choose a "
      "divisor, or make batches of other rows"
    )
  return jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)


def _accumulate(grad: Any, params: PyTree, rest: PyTree, batch: Batch, accumulation: int) -> Any:
  """Sums losses, metrics and gradients over the parts; one part's activations exist at a time."""
  if accumulation < 1:
    raise UserError(f"accumulation={accumulation} must be at least 1")
  if accumulation == 1:
    return grad(params, rest, batch, 0)

  def add(carry: tuple[PyTree, PyTree], indexed: tuple[jax.Array, Batch]) -> tuple[Any, None]:
    (sums, rest), (index, part) = carry, indexed
    (total, (metrics, rest)), grads = grad(params, rest, part, index)
    return (jax.tree.map(jnp.add, sums, (total, metrics, grads)), rest), None

  parts = (jnp.arange(accumulation), split_batch(batch, accumulation))
  first = jax.tree.map(lambda x: x[0], parts)
  (total, (metrics, _)), grads = jax.eval_shape(grad, params, rest, first[1], first[0])
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (total, metrics))
  zero = (*zero, jax.tree.map(jnp.zeros_like, params))
  ((total, metrics, grads), rest), _ = jax.lax.scan(add, (zero, rest), parts)
  return (total, (metrics, rest)), grads


def jit_train_step(abstract: TrainState, donate: bool = True, **bound: Any) -> Callable[..., Any]:
  """Returns `train_step` jitted with its keywords bound; the state stays on its devices.

  Args:
    abstract: result of `abstract_state`.
    donate: whether the next state reuses the state's buffers.
    **bound: keywords of `train_step`.
  """
  where = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  return jax.jit(
    functools.partial(train_step, **bound),
    donate_argnums=(0,) if donate else (),
    out_shardings=(where, None),
  )
