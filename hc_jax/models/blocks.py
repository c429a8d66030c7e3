"""Transformer blocks: sequential and parallel."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.connections import (
  Connection,
  ConnectionLike,
  HyperConnection,
  connection_factory,
)
from hc_jax.connections.carry import Carry, join, split
from hc_jax.models.layers import Dtype, TokenContext

NORM_POSITIONS = ("pre", "post")
BLOCKS = ("sequential", "parallel")
REMOVED = {
  "dual": "is ResiDual (2304.14802), which hc_jax no longer has: it norms the residual path and is "
  "not a hyper-connection; choose sequential or parallel, or open an old run with the version that "
  "wrote it"
}


class Block(nn.Module):
  """Attention and feed-forward, each at a connection of its own.

      h, c = connection(streams, index)
      streams = connection.write(streams, branch(norm(h)), c)

  Attributes:
    attention: makes the first branch, `attention(name=...)(x, context)`.
    feed_forward: makes the second.
    norm: makes a norm, `norm(name=...)(x)`.
    connection: a class of connection, a partial of one, or an instance.
    norm_position: "pre" norms each branch's input, unless the connection does (`norms_input`);
      "post" norms the streams after each write (Post-Norm, arXiv 1706.03762), each stream by
      itself.
    dropout: rate, on the branch output alone. On all streams it would erase the residual path.
    dtype: of branch inputs.
    attention_views: how many inputs the attention takes; with more than one, its connection reads
      as many, and it is called with `[B, L, views, d]`.
  """

  attention: Callable[..., nn.Module]
  feed_forward: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  connection: ConnectionLike = HyperConnection
  norm_position: str = "pre"
  dropout: float = 0.0
  dtype: Dtype = jnp.float32
  attention_views: int = 1

  @nn.compact
  def __call__(self, carry: Carry, layer: int | jax.Array, context: TokenContext) -> Carry:
    """Runs the block.

    Args:
      carry: streams `[B, L, n, w]`; for a connection that carries its read a pair of them and that
        read, `[B, L, 1, n]`.
      layer: number of the block, from 0; may be traced.
      context: what branches know of the tokens.

    Returns:
      The next carry, of the same shapes.
    """
    branches = {"attn": self.attention, "ffn": self.feed_forward}
    for i, (name, make) in enumerate(branches.items()):
      views = self.attention_views if name == "attn" else 1
      index = len(branches) * layer + i
      place = {"sites_per_block": len(branches), "site_in_block": i}
      carry = self._site(carry, index, context, {name: make}, place, f"{name}_", views)
    return carry

  def _site(
    self,
    carry: Carry,
    index: int | jax.Array,
    context: TokenContext,
    branches: dict[str, Callable[..., nn.Module]],
    place: dict[str, int],
    prefix: str = "",
    views: int = 1,
  ) -> Carry:
    """One connection around the sum of its branches, which share a norm."""
    factory = with_views(connection_factory(self.connection, **place), views)
    connection = factory(name=f"{prefix}connection")
    check_norm_position(self.norm_position, connection)
    norm = self.norm(name=f"{prefix}norm")
    streams, carried = split(carry)
    h, coefs = connection(streams, index, dtype=self.dtype, **carried)
    if self.norm_position == "pre" and (ops.is_plain() or not connection.norms_input):
      h = norm(h)
    outputs = [make(name=name)(h, context) for name, make in branches.items()]
    y = nn.Dropout(self.dropout)(
      sum(outputs[1:], start=outputs[0]), deterministic=context.deterministic
    )
    streams = connection.write(streams, y, coefs)
    if self.norm_position == "post":
      streams = norm(streams).astype(streams.dtype)
    return join(streams, coefs)


class ParallelBlock(Block):
  """`x + Attention(N x) + FeedForward(N x)`: both branches at one connection, behind one norm.

  There is one site a block, so that `index` counts blocks. Fields are those of `Block`; the
  branches see the same input, so that there are no views.
  """

  @nn.compact
  def __call__(self, carry: Carry, layer: int | jax.Array, context: TokenContext) -> Carry:
    if self.attention_views != 1:
      raise ValueError(
        f"attention_views={self.attention_views}: a parallel block has one read for attention and "
        "feed-forward; use the sequential block, or leave attention_views at 1"
      )
    branches = {"attn": self.attention, "ffn": self.feed_forward}
    place = {"sites_per_block": 1, "site_in_block": 0}
    return self._site(carry, layer, context, branches, place)


def check_norm_position(norm_position: str, connection: Connection) -> None:
  """Raises ValueError, with the remedy, if blocks of that connection cannot have that norm."""
  if norm_position not in NORM_POSITIONS:
    raise ValueError(f"norm_position={norm_position!r} is unknown; choose one of {NORM_POSITIONS}")
  if norm_position == "pre" or ops.is_plain():
    return
  if connection.has_roles:
    raise ValueError(
      f"norm_position='post' would norm all streams of {type(connection).__name__}, some of which "
      "keep what was; leave norm_position at 'pre'"
    )
  if connection.norms_input:
    raise ValueError(
      f"norm_position='post': {type(connection).__name__} norms what branches read, in the place "
      "of a pre-norm; leave norm_position at 'pre'"
    )


def check_block(block: str) -> None:
  """Raises ValueError unless `block` is one of `BLOCKS`."""
  if block in REMOVED:
    raise ValueError(f"block={block!r} {REMOVED[block]}")
  if block not in BLOCKS:
    raise ValueError(f"block={block!r} is unknown; choose one of {', '.join(BLOCKS)}")


def sites_per_block(block: str) -> int:
  """Returns how many sites a block of that kind has."""
  return 1 if block == "parallel" else 2


def with_views(connection: functools.partial, views: int) -> functools.partial:
  """The connection of a branch that takes that many views.

  Raises:
    ValueError: if the connection asks for several by itself: how many a branch takes is the
      branch's to say.
  """
  asked = connection.keywords.get("num_views", 1)
  if asked not in (1, views):
    raise ValueError(
      f"the connection has num_views={asked}, but this branch takes {views} input(s); leave "
      "num_views at 1 and let the model set it (attention_views=True gives attention three), or "
      "write a branch of your own that takes [..., num_views, d]"
    )
  return functools.partial(connection, num_views=views) if views > 1 else connection
