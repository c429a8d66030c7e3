"""Search for the first NaN or infinity of a training step, by computing the step again in parts."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax.params import named_leaves
from hc_jax.step.loss import token_nats
from hc_jax.step.state import TrainState
from hc_jax.step.step import split_batch
from hc_jax.step.task import Batch, Task

# Methods whose outputs are checked: the call of every module, and a connection's second half.
_METHODS = ("__call__", "write")


def find_nonfinite(task: Task, state: TrainState, batch: Batch, accumulation: int = 1) -> str:
  """Names the first site of a training step that holds a NaN or an infinity.

  Checks, in this order: the parameters; the batch; the forward pass, by `task.locate`; the loss and
  its metrics; the gradient of every parameter.

  Args:
    task: task that is trained.
    state: state before the failing step.
    batch: batch of the failing step.
    accumulation: number of micro-batches in the step.

  Returns:
    One sentence for the user.
  """
  for name, leaf in named_leaves(state.params):
    if _bad(leaf):
      return f"parameter {name} was already {_bad(leaf)} before the step"
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    if kind := _bad(leaf):
      return f"{kind} is in the batch itself, at batch{jax.tree_util.keystr(path)}"
  key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  parts, rest = split_batch(batch, accumulation), state.collections
  for i in range(accumulation):
    part = jax.tree.map(lambda x, i=i: x[i], parts)
    variables, part_key = {"params": state.params, **rest}, jax.random.fold_in(key, i)
    found = task.locate(variables, part, part_key) if task.locate else None
    if not found:
      found, rest = _in_loss(task, state.params, rest, part, part_key)
    if found:
      return found + (f", micro-step {i} of {accumulation}" if accumulation > 1 else "")
  return "forward and gradients are finite; the optimizer's update is the first that is not"


def _in_loss(task: Task, params: Any, rest: Any, part: Batch, key: jax.Array) -> tuple[str, Any]:
  """Returns what is not finite in loss or gradients ("" if all is), and the new collections."""

  def loss_of(params: Any) -> Any:
    found = task.loss({"params": params, **rest}, part, key)
    return found.total, found

  (_, found), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params)
  rest = {**rest, **found.collections}
  for name, value in {"loss": found.total, **found.metrics}.items():
    if kind := _bad(value):
      return f"{kind} first appears in the {name} of the forward pass", rest
  for name, leaf in named_leaves(grads):
    if kind := _bad(leaf):
      return f"the forward pass is finite; {kind} first appears in the gradient of {name}", rest
  return "", rest


def in_forward(model: nn.Module, variables: Any, part: Any, key: jax.Array) -> str | None:
  """Names the first module output of a language model that is not finite; None if all are finite.

  Checks outputs in the order of execution: layer by layer, inner modules before outer ones.

  Args:
    model: a `TransformerLM`.
    variables: variables before the step.
    part: one micro-batch: `inputs` and perhaps `segment_ids`, each `[B, L]`.
    key: key of dropout.
  """
  order: dict[str, int] = {}

  def note(module: nn.Module, method: str) -> bool:
    # Flax calls this filter after the method, so children come before their parent.
    if method in _METHODS:
      order.setdefault("/".join((*module.path, method)), len(order))
    return method in _METHODS

  @jax.jit
  def forward(params: Any) -> Any:
    logits, state = model.apply(
      {"params": params},
      part["inputs"],
      segment_ids=part.get("segment_ids"),
      deterministic=False,
      rngs={"dropout": key},
      capture_intermediates=note,
      mutable=["intermediates"],
    )
    return token_nats(logits, part["targets"]) * part["mask"], state["intermediates"]

  nats, captured = jax.device_get(forward(variables["params"]))
  first = _first_layers(captured)
  sites = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(captured):
    names = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    where = [i for i, name in enumerate(names) if name in _METHODS]
    if not where or not _bad(leaf):
      continue
    at = "/".join(names[: where[-1] + 1])
    stacked = "layers" in names  # under scan, axis 0 is the layer
    start = sum(first.get(name, 0) for name in names) if stacked else 0
    for layer in range(start, start + leaf.shape[0]) if stacked else [_layer(names)]:
      if kind := _bad(leaf[layer - start] if stacked else leaf):
        sites.append((*_rank(at, layer, order), _words(names[: where[-1] + 1], layer, kind)))
  if sites:
    return min(sites)[-1]
  if kind := _bad(nats):
    return f"{kind} first appears in the loss; logits are finite"
  return None


def _first_layers(captured: Any) -> dict[str, int]:
  """Returns the number of the first layer of each segment of scanned layers, by segment name."""
  counts = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(captured):
    if found := re.search(r"'(segment_(\d+))'\]\['layers'\]", jax.tree_util.keystr(path)):
      counts[int(found[2])] = leaf.shape[0]
  return {f"segment_{i}": sum(counts[j] for j in range(i)) for i in counts}


def _layer(names: list[str]) -> int | None:
  numbers = [int(m[1]) for name in names if (m := re.fullmatch(r"layer_(\d+)", name))]
  return numbers[0] if numbers else None


def _rank(at: str, layer: int | None, order: dict[str, int]) -> tuple[int, int, int]:
  """Returns a sort key for execution order: before the layers, layer by layer, after the layers."""
  number = order.get(at, len(order))
  if layer is not None:
    return (1, layer, number)
  inside = [n for name, n in order.items() if "layers/" in name or "layer_" in name]
  return (0, 0, number) if inside and number < min(inside) else (2, 0, number)


def _words(names: list[str], layer: int | None, kind: str) -> str:
  *modules, method = names
  below = [name for name in modules if not re.fullmatch(r"stack|layers|(layer|segment)_\d+", name)]
  output = "output" if method == "__call__" else f"{method}()"
  at = f"layer {layer}, " if layer is not None else ""
  sublayer = f"sublayer {below[0].split('_')[0]}, " if layer is not None and below else ""
  return f"{kind} first appears at {at}{sublayer}module {'/'.join(modules) or 'model'} ({output})"


def _bad(leaf: Any) -> str:
  """Returns "NaN" or "infinity"; "" if the numbers are finite or are not floats."""
  if not jnp.issubdtype(getattr(leaf, "dtype", None), jnp.floating):
    return ""
  values = np.asarray(leaf, np.float32)
  return "NaN" if np.isnan(values).any() else "infinity" if np.isinf(values).any() else ""
