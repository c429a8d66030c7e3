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
  """`num_layers` blocks, one after the other.

  Attributes:
    block: makes a block, `block(name=...)(carry, layer, context)`.
    num_layers: how many.
    first: the number of the first one.
    scan: one block compiled once and scanned over stacked parameters, or a Python loop. The
      parameters convert by `unstack_layers` and `stack_layers`.
    remat: what the backward pass computes again. "none": nothing. "full": all but the input of each
      block. "branches": as full, but branch outputs and coefficients are kept. "blocks:K": all but
      the input of every K-th block, from which K inputs are made again at a time: the least memory,
      for one more forward pass than "full". Without it a scan keeps every intermediate stream of
      every layer.
  """

  block: Callable[..., nn.Module]
  num_layers: int
  scan: bool = True
  remat: str = "branches"
  first: int = 0

  @nn.compact
  def __call__(self, carry: Carry, context: TokenContext) -> Carry:
    """Runs all blocks, one after the other; see `Block` for what goes in and comes out."""
    layers = range(self.first, self.first + self.num_layers)
    check_groups(self.remat, self.num_layers)
    size = group_size(self.remat)
    # Caches, and all that is sown, are stored a layer each, so layers are not grouped meanwhile.
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
    """The scan; in groups of `size` layers, which are saved and computed again as one."""

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
  """`function(block, carry, layer, context)` over stacked parameters and layers' numbers."""
  return nn.scan(
    function,
    variable_axes={True: 0},  # every collection: what a branch sows comes out, a layer each
    split_rngs={True: True},
    in_axes=(0, nn.broadcast),
    length=length,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )


@dataclasses.dataclass(frozen=True)
class Segment:
  """Some blocks of a kind.

  Attributes:
    num_layers: how many.
    block: makes one of them, as for `Stack`.
    connection: that of the blocks, with its fields, unbound.
  """

  num_layers: int
  block: Callable[..., nn.Module]
  connection: Connection


class SegmentedStack(nn.Module):
  """Segments of blocks, each a `Stack` of its own (one scan each); layers count through.

  Where the number of streams or fractions changes, the streams become one, by the mean over the
  copies of each fraction, and the next segment's streams are copies of that. The mean, so that
  equal streams hand on the state that each of them holds: at initialisation nothing is scaled, and
  the network is the residual network if each segment is one.

  Parameters lie in `segment_0`, `segment_1`, ...; unrolled layers keep their number in the network.

  Attributes:
    segments: in order.
    scan: as in `Stack`.
    remat: as in `Stack`.
  """

  segments: Sequence[Segment]
  scan: bool = True
  remat: str = "branches"

  @nn.compact
  def __call__(self, carry: Carry, context: TokenContext) -> Carry:
    """Runs all segments: what goes into the first one's blocks -> what comes out of the last's."""
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
  """From scanned to unrolled layers: each `layers` of stacked leaves becomes `layer_0`, ...

  Works on parameters, gradients and optimizer states alike: on any tree of mappings, tuples,
  lists and named tuples, without partitioning metadata. Beneath `segment_0`, `segment_1`, ... the
  numbers count through all segments.
  """
  return _on_mappings(tree, _unstack)


def _unstack(node: Mapping, first: int = 0) -> dict:
  """Of one mapping; its layers get numbers from `first` on."""
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
  """How many layers are stacked in a mapping's `layers`; 0 without."""
  return jax.tree.leaves(node["layers"])[0].shape[0] if "layers" in node else 0


def _segment_order(key: str) -> tuple[str, int]:
  """Sorts `segment_10` behind `segment_9`, and other names by the alphabet."""
  found = _SEGMENT.fullmatch(key)
  return ("segment_", int(found[1])) if found else (key, 0)


def stack_layers(tree: PyTree) -> PyTree:
  """From unrolled to scanned layers: `layer_0`, `layer_1`, ... become one `layers`, stacked."""

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
