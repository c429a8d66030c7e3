"""Transformer blocks: sequential, parallel and whole."""

import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

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
BLOCKS = ("sequential", "parallel", "whole")
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
    attention: factory of the first branch, `attention(name=...)(x, context)`.
    feed_forward: factory of the second branch, called likewise.
    norm: factory of a norm, `norm(name=...)(x)`.
    connection: a connection class, a partial of one, or an instance.
    norm_position: "pre" norms each branch's input, unless the connection does (`norms_input`).
      "post" norms the streams after each write, each stream alone (Post-Norm, arXiv 1706.03762).
    dropout: rate of dropout on the branch output. On streams it would erase the residual path.
    dtype: dtype of branch inputs.
    attention_views: number of inputs of the attention. With more than one, its connection reads as
      many, and the attention is called with `[B, L, views, d]`.

  Raises:
    ValueError: when called, if `norm_position` is unknown or does not fit the connection, or the
      connection needs another kind of block.
  """

  attention: Callable[..., nn.Module]
  feed_forward: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  connection: ConnectionLike = HyperConnection
  norm_position: str = "pre"
  dropout: float = 0.0
  dtype: Dtype = jnp.float32
  attention_views: int = 1

  # The block's name in `BLOCKS`.
  kind: ClassVar[str] = "sequential"

  @nn.compact
  def __call__(self, carry: Carry, layer: int | jax.Array, context: TokenContext) -> Carry:
    """Runs the block.

    Args:
      carry: streams `[B, L, n, w]`; for a connection that carries its read, the pair (streams,
        read `[B, L, 1, n]`).
      layer: number of the block, from 0; may be traced.
      context: positions, mask and mode of the tokens, for the branches.

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
    """Runs one site: a connection around the sum of its branches, which share a norm."""
    factory = with_views(connection_factory(self.connection, **place), views)
    connection = factory(name=f"{prefix}connection")
    check_norm_position(self.norm_position, connection)
    check_branch(self.kind, connection)
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
  """A block with both branches at one connection, after one norm: `x + A(N x) + F(N x)`.

  There is one site per block, so that the site's index is the number of the block. Fields and calls
  are those of `Block`. Both branches get the same input.

  Raises:
    ValueError: when called, if `attention_views` is not 1; in the cases of `Block`.
  """

  kind: ClassVar[str] = "parallel"

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


class WholeBlock(Block):
  """A Pre-Norm block inside one connection: the block, with its residuals, is the branch.

      h, c = connection(streams, index)
      a = attention(N h)
      f = feed_forward(N (h + a))
      streams = connection.write(streams, a + f, c)

  A connection adds the branch output to its streams, and therefore gets the change `a + f`. A
  connection whose branch is a block (`Connection.branch_is_block`), such as DenseFormer, gets the
  state `h + a + f` instead. There is one site per block, so that the site's index is the number of
  the block. Fields and calls are those of `Block`. If the attention takes several views, the
  connection reads one more: the last one is the h of the inner residual. The inner sums have the
  dtype of the streams.

  Raises:
    ValueError: when called, if `norm_position` is not "pre", or if the connection asks for another
      number of views.
  """

  kind: ClassVar[str] = "whole"

  @nn.compact
  def __call__(self, carry: Carry, layer: int | jax.Array, context: TokenContext) -> Carry:
    if self.norm_position != "pre":
      raise ValueError(
        f"norm_position={self.norm_position!r}: a whole block norms what its branches read; leave "
        "norm_position at 'pre', or choose block='sequential'"
      )
    views = read_views(self.kind, self.attention_views)
    place = {"sites_per_block": 1, "site_in_block": 0}
    factory = with_views(connection_factory(self.connection, **place), views)
    connection = factory(name="connection")
    streams, carried = split(carry)
    h, coefs = connection(streams, layer, **carried)
    state, inputs = (h, h) if views == 1 else (h[..., -1, :], h[..., :-1, :])
    norm = self.norm(name="attn_norm")
    if ops.is_plain() or not connection.norms_input:
      inputs = norm(inputs)
    attended = self._inner("attn", self.attention, inputs.astype(self.dtype), context)
    attended = checkpoint_name(attended, "branch_output")
    between = _sum(state, attended, streams.dtype)
    fed = self._inner("ffn", self.feed_forward, self.norm(name="ffn_norm")(between), context)
    before = between if connection.branch_is_block else attended
    y = _sum(before, fed, streams.dtype)
    return join(connection.write(streams, y, coefs), coefs)

  def _inner(
    self, name: str, make: Callable[..., nn.Module], inputs: jax.Array, context: TokenContext
  ) -> jax.Array:
    """Runs a branch of the block, with dropout on its output."""
    dropout = nn.Dropout(self.dropout, name=f"{name}_dropout")
    return dropout(make(name=name)(inputs, context), deterministic=context.deterministic)


def _sum(x: jax.Array, y: jax.Array, dtype: Dtype) -> jax.Array:
  """Returns the sum, computed in float32 and rounded once to `dtype`."""
  return (x.astype(jnp.float32) + y.astype(jnp.float32)).astype(dtype)


KINDS = {cls.kind: cls for cls in (Block, ParallelBlock, WholeBlock)}


def check_branch(block: str, connection: Connection) -> None:
  """Raises ValueError, with the remedy, if the connection needs another kind of block."""
  if connection.branch_is_block and block != "whole":
    raise ValueError(
      f"block={block!r}: the branch of {type(connection).__name__} is a whole block, with the "
      "residuals inside; set block='whole' (hc_jax.models.WholeBlock)"
    )


def check_norm_position(norm_position: str, connection: Connection) -> None:
  """Raises ValueError, with the remedy, if the norm's position does not fit the connection."""
  if norm_position not in NORM_POSITIONS:
    raise ValueError(f"norm_position={norm_position!r} is unknown; choose one of {NORM_POSITIONS}")
  if norm_position == "pre" or ops.is_plain():
    return
  if connection.has_roles:
    raise ValueError(
      f"norm_position='post' would norm all streams of {type(connection).__name__}, but some must "
      "keep earlier states unchanged; leave norm_position at 'pre'"
    )
  if connection.norms_input:
    raise ValueError(
      f"norm_position='post': {type(connection).__name__} norms what branches read, instead of a "
      "pre-norm; leave norm_position at 'pre'"
    )


def sites_per_block(block: str) -> int:
  """Returns the number of sites of a block of that kind."""
  return 2 if block == "sequential" else 1


def read_views(block: str, attention_views: int) -> int:
  """Returns the number of inputs that the first site reads, for an attention with given views."""
  return attention_views + 1 if block == "whole" and attention_views > 1 else attention_views


def with_views(connection: functools.partial, views: int) -> functools.partial:
  """Returns the connection with `num_views` set for a branch that takes that many views.

  Raises:
    ValueError: if the connection already has another number of views than the branch.
  """
  asked = connection.keywords.get("num_views", 1)
  if asked not in (1, views):
    raise ValueError(
      f"the connection has num_views={asked}, but this branch takes {views} input(s); leave "
      "num_views at 1 and let the model set it (attention_views=True gives attention three), or "
      "write a branch of your own that takes [..., num_views, d]"
    )
  return functools.partial(connection, num_views=views) if views > 1 else connection
