"""The block, and the stack of blocks: scanned or unrolled, with or without rematerialisation."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.connections import ConnectionLike, HyperConnection, connection_factory
from hc_jax.models.layers import Dtype, TokenContext

PyTree = Any
REMAT = ("none", "branches", "full")
NORM_POSITIONS = ("pre", "post")


class Block(nn.Module):
  """Attention and feed-forward, each at a connection of its own.

      h, c = connection(streams, index)
      streams = connection.write(streams, branch(norm(h)), c)

  Attributes:
    attention: makes the first branch, `attention(name=...)(x, context)`.
    feed_forward: makes the second.
    norm: makes a norm, `norm(name=...)(x)`.
    connection: a class of connection, a partial of one, or an instance.
    norm_position: "pre" norms each branch's input; "post" norms the streams after each write
      (Post-Norm, arXiv 1706.03762), each stream by itself.
    dropout: rate, on the branch output alone. On all streams it would erase the residual path.
    dtype: of branch inputs.
  """

  attention: Callable[..., nn.Module]
  feed_forward: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  connection: ConnectionLike = HyperConnection
  norm_position: str = "pre"
  dropout: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, streams: jax.Array, layer: int | jax.Array, context: TokenContext
  ) -> jax.Array:
    """Streams `[B, L, n, w]` -> `[B, L, n, w]`; `layer` counts blocks from 0 and may be traced."""
    if self.norm_position not in NORM_POSITIONS:
      raise ValueError(
        f"norm_position={self.norm_position!r} is unknown; choose one of {NORM_POSITIONS}"
      )
    make_connection = connection_factory(self.connection)
    branches = {"attn": self.attention, "ffn": self.feed_forward}
    for i, (name, make) in enumerate(branches.items()):
      connection = make_connection(name=f"{name}_connection")
      norm = self.norm(name=f"{name}_norm")
      h, coefs = connection(streams, len(branches) * layer + i, dtype=self.dtype)
      if self.norm_position == "pre":
        h = norm(h)
      y = make(name=name)(h, context)
      y = nn.Dropout(self.dropout)(y, deterministic=context.deterministic)
      streams = connection.write(streams, y, coefs)
      if self.norm_position == "post":
        streams = norm(streams).astype(streams.dtype)
    return streams


class Stack(nn.Module):
  """`num_layers` blocks, one after the other.

  Attributes:
    block: makes a block, `block(name=...)(streams, layer, context)`.
    num_layers: how many.
    scan: one block compiled once and scanned over stacked parameters, or a Python loop. The
      parameters convert by `unstack_layers` and `stack_layers`.
    remat: what the backward pass computes again. "none": nothing. "full": all but the input of each
      block. "branches": as full, but branch outputs and coefficients are kept. Without it a scan
      keeps every intermediate stream of every layer.
  """

  block: Callable[..., nn.Module]
  num_layers: int
  scan: bool = True
  remat: str = "branches"

  @nn.compact
  def __call__(self, streams: jax.Array, context: TokenContext) -> jax.Array:
    """Streams `[B, L, n, w]` -> `[B, L, n, w]`."""

    def run(block: nn.Module, streams: jax.Array, layer, context: TokenContext) -> jax.Array:
      return block(streams, layer, context)

    run = rematerialised(run, self.remat, in_scan=self.scan)
    if not self.scan:
      for layer in range(self.num_layers):
        streams = run(self.block(name=f"layer_{layer}"), streams, layer, context)
      return streams
    scanned = nn.scan(
      lambda block, streams, layer, context: (run(block, streams, layer, context), None),
      variable_axes={"params": 0, "cache": 0, "intermediates": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(0, nn.broadcast),
      length=self.num_layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(self.block(name="layers"), streams, jnp.arange(self.num_layers), context)[0]


def rematerialised(run: Callable, remat: str, in_scan: bool) -> Callable:
  """Wraps a function of a module by the remat policy of that name.

  Raises:
    ValueError: if the policy is unknown.
  """
  if remat not in REMAT:
    raise ValueError(f"remat={remat!r} is unknown; choose one of {REMAT}")
  if remat == "none":
    return run
  policy = None
  if remat == "branches":
    policy = jax.checkpoint_policies.save_only_these_names("branch_output", "coefs")
  return nn.remat(run, policy=policy, prevent_cse=not in_scan)


def unstack_layers(tree: PyTree) -> PyTree:
  """From scanned to unrolled layers: each `layers` of stacked leaves becomes `layer_0`, ...

  Works on parameters, gradients and optimizer states alike: on any tree of mappings, tuples,
  lists and named tuples, without partitioning metadata.
  """

  def convert(node: Mapping) -> dict:
    out = {}
    for key, child in node.items():
      if key != "layers":
        out[key] = unstack_layers(child)
        continue
      for layer in range(jax.tree.leaves(child)[0].shape[0]):
        out[f"layer_{layer}"] = jax.tree.map(lambda leaf, i=layer: leaf[i], child)
    return out

  return _on_mappings(tree, convert)


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
