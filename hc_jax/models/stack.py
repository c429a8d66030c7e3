"""Stacks of blocks: scanned or unrolled, rematerialised or not, in one segment or several."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import is_filter_empty

from hc_jax import axes, ops
from hc_jax.connections import Connection, Reduce
from hc_jax.connections.carry import Carry, split, start
from hc_jax.models.layers import TokenContext
from hc_jax.models.remat import check_groups, group_size, rematerialised

PyTree = Any
_SEGMENT = re.compile(r"segment_(\d+)")


class Stack(nn.Module):
  """A stack of `num_layers` blocks.

  Attributes:
    block: factory of a block, `block(name=...)(carry, layer, context)`.
    num_layers: number of blocks.
    first: number of the first block.
    scan: whether one block is compiled once and scanned over stacked parameters, or blocks run in a
      Python loop. `unstack_layers` and `stack_layers` convert the parameters.
    remat: policy for the backward pass. With "none" everything is saved: a scan then keeps every
      intermediate stream of every layer. Policy "full" saves the input of each block and computes
      the rest again. Policy "branches" also saves branch outputs and maps. Policy "blocks:K" saves
      only the input of every K-th block, and computes the K inputs of a group again. It needs the
      least memory, and one more forward pass than "full".

  Raises:
    ValueError: when called, if `remat` is unknown, or K does not divide `num_layers`.
  """

  block: Callable[..., nn.Module]
  num_layers: int
  scan: bool = True
  remat: str = "branches"
  first: int = 0

  @nn.compact
  def __call__(self, carry: Carry, context: TokenContext) -> Carry:
    """Runs all blocks in order; arguments and result are those of `Block`, without `layer`."""
    layers = range(self.first, self.first + self.num_layers)
    check_groups(self.remat, self.num_layers)
    size = group_size(self.remat)
    # Caches and sown values are stored per layer, so layers are not grouped while they are written.
    if self.is_initializing() or not is_filter_empty(self.scope.mutable):
      size = None

    def run(block: nn.Module, carry: Carry, layer, context: TokenContext) -> Carry:
      return block(carry, layer, context)

    run = rematerialised(run, self.remat, in_scan=self.scan)
    if self.scan:
      return self._scanned(run, carry, jnp.arange(layers.start, layers.stop), context, size)

    def some(stack: "Stack", carry: Carry, layers: range) -> Carry:
      for layer in layers:
        carry = run(stack.block(name=f"layer_{layer}"), carry, layer, context)
      return carry

    if size is None:
      return some(self, carry, layers)
    for begin in layers[::size]:
      group = nn.remat(some, static_argnums=(2,))
      carry = group(self, carry, range(begin, begin + size))
    return carry

  def _scanned(self, run, carry, layers, context, size) -> Carry:
    """Scans over layers, or over groups of `size` layers that are rematerialised as one."""

    def one(block, carry, layer, context):
      return run(block, carry, layer, context), None

    def group(block, carry, layers, context):
      return _scan(one, size)(block, carry, layers, context)

    block = self.block(name="layers")
    if size is None:
      return _scan(one, self.num_layers)(block, carry, layers, context)[0]

    def grouped(params: PyTree) -> PyTree:
      return jax.tree.map(lambda p: p.reshape(-1, size, *p.shape[1:]), axes.unboxed(params))

    groups = _scan(nn.remat(group, prevent_cse=False), self.num_layers // size)
    run_all = nn.map_variables(groups, "params", trans_in_fn=grouped)
    return run_all(block, carry, layers.reshape(-1, size), context)[0]


def _scan(function: Callable, length: int) -> Callable:
  """Returns `function(block, carry, layer, context)`, scanned over parameters and layers."""
  return nn.scan(
    function,
    variable_axes={True: 0},  # all collections, so that values that branches sow come out per layer
    split_rngs={True: True},
    in_axes=(0, nn.broadcast),
    length=length,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )


@dataclasses.dataclass(frozen=True)
class Segment:
  """Consecutive blocks with the same connection.

  Attributes:
    num_layers: number of blocks.
    block: factory of a block, as in `Stack`.
    connection: the blocks' connection, with its fields, unbound.
  """

  num_layers: int
  block: Callable[..., nn.Module]
  connection: Connection


class SegmentedStack(nn.Module):
  """A stack of segments of blocks. Each segment is a `Stack`, and is scanned separately.

  Where the number of streams or fractions changes, the streams are reduced to one state, by the
  mean over the copies of each fraction. The next segment's streams are copies of that state. With a
  mean, equal streams hand on the state that each holds. The state is therefore not scaled at
  initialisation, and the network starts as the residual network if each segment does.

  The parameters' names begin with `segment_0`, `segment_1`, ... Unrolled layers are numbered
  through the whole network.

  Attributes:
    segments: the segments, in order.
    scan: whether each segment is scanned, as in `Stack`.
    remat: policy for the backward pass, as in `Stack`.
  """

  segments: Sequence[Segment]
  scan: bool = True
  remat: str = "branches"

  @nn.compact
  def __call__(self, carry: Carry, context: TokenContext) -> Carry:
    """Runs all segments in order; arguments and result are those of `Block`, without `layer`."""
    now, first = self.segments[0].connection, 0
    for i, segment in enumerate(self.segments):
      to = segment.connection
      if (to.num_streams, to.fractions) != (now.num_streams, now.fractions):
        streams, _ = split(carry)
        x = Reduce(now.fractions, kind="mean")(streams)
        streams = ops.expand(x.astype(streams.dtype), to.num_streams, to.fractions)
        carry = start(to, streams)
      elif to.carries_read != now.carries_read:
        carry = start(to, split(carry)[0])
      stack = Stack(
        segment.block,
        segment.num_layers,
        scan=self.scan,
        remat=self.remat,
        first=first,
        name=f"segment_{i}",
      )
      carry = stack(carry, context)
      now, first = to, first + segment.num_layers
    return carry


def unstack_layers(tree: PyTree) -> PyTree:
  """Returns a tree for unrolled layers: each `layers` of stacked leaves becomes `layer_0`, ...

  Args:
    tree: parameters, gradients, an optimizer state, or any other tree of mappings, tuples, lists
      and named tuples, without partitioning metadata. Below `segment_0`, `segment_1`, ... layers
      are numbered through all segments.
  """
  return _on_mappings(tree, _unstack)


def _unstack(node: Mapping, first: int = 0) -> dict:
  """Converts one mapping, with layers numbered from `first` on."""
  out = {}
  for key in sorted(node, key=_segment_order):
    child = node[key]
    if key == "layers":
      for i in range(_stacked_layers(node)):
        out[f"layer_{first + i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], child)
    elif _SEGMENT.fullmatch(key) and isinstance(child, Mapping):
      out[key] = _unstack(child, first)
      first += _stacked_layers(child)
    else:
      out[key] = unstack_layers(child)
  return out


def _stacked_layers(node: Mapping) -> int:
  """Returns the number of layers that are stacked in a mapping's `layers`; 0 without `layers`."""
  return jax.tree.leaves(node["layers"])[0].shape[0] if "layers" in node else 0


def _segment_order(key: str) -> tuple[str, int]:
  """Returns a sort key that puts `segment_10` after `segment_9`, and sorts other names."""
  found = _SEGMENT.fullmatch(key)
  return ("segment_", int(found[1])) if found else (key, 0)


def stack_layers(tree: PyTree) -> PyTree:
  """Returns a tree for scanned layers: `layer_0`, `layer_1`, ... become one `layers`, stacked.

  Args:
    tree: as in `unstack_layers`, but with unrolled layers of equal shapes.
  """

  def convert(node: Mapping) -> dict:
    out = {k: stack_layers(v) for k, v in node.items() if not k.startswith("layer_")}
    layers = sorted((k for k in node if k.startswith("layer_")), key=lambda k: int(k[6:]))
    if layers:
      out["layers"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(node[k] for k in layers))
    return out

  return _on_mappings(tree, convert)


def _on_mappings(tree: PyTree, convert: Callable[[Mapping], dict]) -> PyTree:
  """Applies `convert` to the topmost mappings of a tree."""
  is_mapping = functools.partial(_isinstance, types=Mapping)
  return jax.tree.map(lambda x: convert(x) if is_mapping(x) else x, tree, is_leaf=is_mapping)


def _isinstance(x: Any, types: type) -> bool:
  return isinstance(x, types)
