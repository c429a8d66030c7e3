"""The needs of a run on each device, computed before it is compiled: `hc-jax plan`."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from hc_jax import axes, data, models, sharding
from hc_jax.config_keys import arguments
from hc_jax.connections import Residual
from hc_jax.errors import UserError, named
from hc_jax.params import param_count
from hc_jax.plan import Kept, count_flops, kept
from hc_jax.step.loss import batch_nats, parts_of, token_init
from hc_jax.step.optim import make_optimizer
from hc_jax.step.state import abstract_state


@dataclasses.dataclass(frozen=True)
class Policy:
  """The memory and the FLOPs of one remat policy; memory is in bytes on a device.

  Attributes:
    remat: name of the policy.
    kept: bytes of activations kept from forward to backward, for each row of a micro-batch.
    streams: part of `kept` that holds streams.
    block: further bytes that the backward pass of a block needs, for each row.
    weights: bytes of weights in the dtype of the products, and of weights gathered for a layer.
    flops: FLOPs of one row, forward and backward, including recomputation.
  """

  remat: str
  kept: float
  streams: float
  block: float
  weights: float
  flops: int


@dataclasses.dataclass(frozen=True)
class Plan:
  """The needs of a run on each device.

  Attributes:
    mesh: size of each axis.
    preset: preset of the sharding rules.
    batch_size, length, accumulation: values of the config.
    count: numbers of parameters.
    params, optimizer, gradients: bytes on a device; exact, except for copies that the compiler
      makes.
    policies: needs of each remat policy, the config's own first.
    residual_flops: FLOPs of one row of the residual network with the same shape and the config's
      policy; None if the model cannot be made without its streams.
    logits: bytes of the float32 logits of one row.
    loss_parts: `train.loss_parts`; 0 lets `parts_of` choose.
    memory: memory of a device in bytes, or None.
  """

  mesh: dict[str, int]
  preset: str
  batch_size: int
  length: int
  accumulation: int
  count: Any
  params: int
  optimizer: int
  gradients: int
  policies: tuple[Policy, ...]
  residual_flops: int | None
  logits: float
  loss_parts: int
  memory: float | None

  @property
  def devices(self) -> int:
    return math.prod(self.mesh.values())

  @property
  def shards(self) -> int:
    """Returns the number of parts into which a batch is split over devices."""
    return self.mesh["data"] * self.mesh["fsdp"]

  @property
  def rows(self) -> int:
    """Returns the rows of a micro-batch on a device."""
    return self.batch_size // self.accumulation // self.shards

  @property
  def fixed(self) -> int:
    """Returns the bytes that depend on neither batch nor policy."""
    return self.params + self.optimizer + self.gradients

  def work(self, policy: Policy, rows: int) -> float:
    """Returns the largest working memory in bytes, at the logits or in a block, besides `kept`.

    If the loss is computed in parts, the logits of one part and their gradient are held together.
    """
    logits = rows * self.logits
    parts = parts_of(self.length, int(logits) // 4, self.loss_parts)
    return max(rows * policy.block, logits if parts == 1 else 2 * logits / parts)

  def total(self, policy: Policy, rows: int | None = None) -> float:
    """Returns the largest bytes during a step, with `rows` rows of a micro-batch on a device."""
    rows = self.rows if rows is None else rows
    return self.fixed + policy.weights + rows * policy.kept + self.work(policy, rows)

  def largest(self, policy: Policy, accumulates: bool = False) -> int:
    """Returns the largest number of rows of a micro-batch that fit on a device; 0 if none fits.

    Args:
      policy: one of `policies`.
      accumulates: whether to assume several micro-steps, even if the config has one.
    """
    assert self.memory is not None
    free = self.memory
    if accumulates and self.accumulation == 1:
      free -= self.gradients
    rows = max(0, int((free - self.fixed - policy.weights) // (policy.kept + policy.block)))
    while rows and self.total(policy, rows) > free:
      rows -= 1
    return rows


def make_plan(
  config: Any, mesh: Mapping[str, int] | None = None, memory: float | None = None
) -> Plan:
  """Plans a run by tracing its model, without compiling it or allocating its parameters.

  Args:
    config: config from `hc_jax.config.load_config`.
    mesh: size of each axis, 1 if missing. The preset follows from the axes that are larger than 1.
      None uses the config's own mesh, in which -1 counts as 1.
    memory: memory of a device in bytes, from which the largest batch is computed, or None.

  Returns:
    A `Plan`; `plan_lines` prints it.

  Raises:
    UserError: if a run would refuse the mesh or the batch, or the vocabulary is not known.
  """
  sizes, preset = _mesh(config, mesh)
  abstract = AbstractMesh(tuple(sizes.values()), sharding.AXES)
  train, length = config.train, config.data.length
  vocab_size = config.model.vocab_size
  with named(arguments()):
    sharding.check_batch(
      abstract,
      preset,
      batch_size=train.batch_size,
      accumulation=train.accumulation,
      length=length,
    )
    if vocab_size is None:
      vocab_size = data.load_tokenizer(config.data.tokenizer).vocab_size
  model = models.make_model(config.model, vocab_size)
  optimizer, _ = make_optimizer(config.optim, train.num_steps)
  state = abstract_state(token_init(model, length), optimizer, mesh=abstract, preset=preset)
  params = _shard_bytes(state.params)
  micro = train.batch_size // train.accumulation
  logits = micro * length * vocab_size // math.prod(sizes.values())
  parts = parts_of(length, logits, train.loss_parts)
  # With accumulation, a sum of gradients exists next to the gradients of one micro-step.
  gradients = params * (2 if train.accumulation > 1 else 1)
  return Plan(
    mesh=sizes,
    preset=preset,
    batch_size=train.batch_size,
    length=length,
    accumulation=train.accumulation,
    count=param_count(state.params),
    params=params,
    optimizer=_shard_bytes((state.opt_state, state.step, state.rng)),
    gradients=gradients,
    policies=_policies(model, state.params, vocab_size, length, sizes, parts),
    residual_flops=_residual_flops(model, length, parts),
    logits=4 * length * vocab_size / sizes["tensor"],
    loss_parts=train.loss_parts,
    memory=memory,
  )


def _mesh(config: Any, given: Mapping[str, int] | None) -> tuple[dict[str, int], str]:
  """Returns the sizes of the three axes, and the preset."""
  if given is None:
    sizes = {axis: max(1, config.mesh[axis]) for axis in sharding.AXES}
    preset = config.mesh.preset
  else:
    sizes = {axis: given.get(axis, 1) for axis in sharding.AXES}
    preset = "fsdp_tp" if sizes["tensor"] > 1 else "fsdp" if sizes["fsdp"] > 1 else "dp"
  for axis in set(given or ()) - set(sharding.AXES):
    raise UserError(f"`mesh`: there is no axis {axis}; choose from {', '.join(sharding.AXES)}")
  for axis, size in sizes.items():
    if size < 1:
      raise UserError(f"`mesh`: {axis}:{size} must be at least 1")
  return sizes, preset


def _shard_bytes(tree: Any) -> int:
  """Returns the bytes of one device's shards of a tree of `ShapeDtypeStruct`s with shardings."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * _itemsize(leaf.dtype)
    for leaf in jax.tree.leaves(tree)
  )


def _policies(
  model: nn.Module,
  params: Any,
  vocab_size: int,
  length: int,
  sizes: Mapping[str, int],
  parts: int,
) -> tuple[Policy, ...]:
  """Returns the needs of each remat policy, the model's own first."""
  connection = max(model.connections(), key=lambda each: each.num_streams / each.fractions)
  stream = connection.num_streams, model.d_model // connection.fractions
  one_stream = length * math.prod(stream) * _itemsize(model.stream_dtype or model.dtype)
  names = dict.fromkeys([model.remat, "none", "branches", "full", _groups(model.num_layers)])
  batch_of = functools.partial(_batch, length)
  found = {
    name: kept(_loss(model, name, parts), params, batch_of, stream=stream, vocab_size=vocab_size)
    for name in names
  }
  count = param_count(params)
  layer = (count.total - count.embedding) / model.num_layers * _itemsize(model.dtype)
  gathered = layer if sizes["fsdp"] > 1 else 0
  return tuple(
    Policy(
      remat=name,
      kept=own.row / sizes["tensor"],
      streams=own.streams / sizes["tensor"],
      block=_block(own, found["none"], name, model.num_layers, one_stream) / sizes["tensor"],
      weights=(own.fixed + gathered) / sizes["tensor"],
      flops=count_flops(jax.value_and_grad(_loss(model, name, parts)), params, _batch(length, 1)),
    )
    for name, own in found.items()
  )


def _residual_flops(model: nn.Module, length: int, parts: int) -> int | None:
  """Returns the FLOPs of one row of the residual network with the model's shape, or None."""
  plain = model.clone(connection=Residual, layers=(), expand="copy", reduce="sum")
  try:
    params = axes.unboxed(
      jax.eval_shape(plain.init, jax.random.key(0), _batch(length, 1)["inputs"])
    )
  except ValueError:
    return None  # because parts of the model need its streams
  loss = _loss(plain, model.remat, parts)
  return count_flops(jax.value_and_grad(loss), params["params"], _batch(length, 1))


def _itemsize(dtype: Any) -> int:
  return jnp.dtype(dtype).itemsize


def _groups(layers: int) -> str:
  """Returns the policy "blocks:K" with K near the root of the number of layers (least memory)."""
  able = [k for k in range(1, layers + 1) if layers % k == 0]
  return f"blocks:{max(k for k in able if k * k <= layers)}"


def _block(own: Kept, none: Kept, remat: str, layers: int, one_stream: int) -> int:
  """Returns the further bytes that the backward pass of a block needs, for each row.

  They are the recomputed activations (for a group of blocks, the blocks' inputs too), and the
  gradients of the streams that enter and leave. The logits are freed by then.
  """
  again = (none.row - own.row) // layers + 2 * one_stream
  if remat.startswith("blocks:"):
    again += int(remat.partition(":")[2]) * one_stream
  return max(again - own.logits, 0)


def _loss(model: nn.Module, remat: str, parts: int = 1) -> Any:
  """Returns the loss `(params, batch) -> scalar` of the model with a remat policy."""
  model = model.clone(remat=remat)
  return lambda params, batch: jnp.sum(batch_nats(model, params, batch, loss_parts=parts))


def _batch(length: int, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
  kinds = {"inputs": jnp.int32, "targets": jnp.int32, "mask": jnp.float32}
  return {name: jax.ShapeDtypeStruct((rows, length), kind) for name, kind in kinds.items()}
