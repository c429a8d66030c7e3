"""Transformer blocks: sequential, parallel, and ResiDual's."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.connections import ConnectionLike, HyperConnection, connection_factory
from hc_jax.models.layers import Dtype, TokenContext

NORM_POSITIONS = ("pre", "post")
BLOCKS = ("sequential", "parallel", "dual")


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
  def __call__(
    self, streams: jax.Array, layer: int | jax.Array, context: TokenContext
  ) -> jax.Array:
    """Streams `[B, L, n, w]` -> `[B, L, n, w]`; `layer` counts blocks from 0 and may be traced."""
    branches = {"attn": self.attention, "ffn": self.feed_forward}
    for i, (name, make) in enumerate(branches.items()):
      views = self.attention_views if name == "attn" else 1
      index = len(branches) * layer + i
      streams = self._site(streams, index, context, {name: make}, f"{name}_", views)
    return streams

  def _site(
    self,
    streams: jax.Array,
    index: int | jax.Array,
    context: TokenContext,
    branches: dict[str, Callable[..., nn.Module]],
    prefix: str = "",
    views: int = 1,
  ) -> jax.Array:
    """One connection around the sum of its branches, which share a norm."""
    if self.norm_position not in NORM_POSITIONS:
      raise ValueError(
        f"norm_position={self.norm_position!r} is unknown; choose one of {NORM_POSITIONS}"
      )
    connection = with_views(connection_factory(self.connection), views)(name=f"{prefix}connection")
    norm = self.norm(name=f"{prefix}norm")
    h, coefs = connection(streams, index, dtype=self.dtype)
    if self.norm_position == "pre":
      h = norm(h)
    outputs = [make(name=name)(h, context) for name, make in branches.items()]
    y = nn.Dropout(self.dropout)(
      sum(outputs[1:], start=outputs[0]), deterministic=context.deterministic
    )
    streams = connection.write(streams, y, coefs)
    if self.norm_position == "post":
      streams = norm(streams).astype(streams.dtype)
    return streams


class ParallelBlock(Block):
  """`x + Attention(N x) + FeedForward(N x)`: both branches at one connection, behind one norm.

  There is one site a block, so that `index` counts blocks. Fields are those of `Block`; the
  branches see the same input, so that there are no views.
  """

  @nn.compact
  def __call__(
    self, streams: jax.Array, layer: int | jax.Array, context: TokenContext
  ) -> jax.Array:
    if self.attention_views != 1:
      raise ValueError(
        f"attention_views={self.attention_views}: a parallel block has one read for attention and "
        "feed-forward; use the sequential block, or leave attention_views at 1"
      )
    branches = {"attn": self.attention, "ffn": self.feed_forward}
    return self._site(streams, layer, context, branches)


class DualBlock(nn.Module):
  """A block of ResiDual, arXiv 2304.14802: a Post-Norm and an unnormed residual path side by side.

  Its state is two streams p and q. For attention, then feed-forward, `y = F(p)`, `p' = N(p + y)`,
  `q' = q + y`. The network ends in `p + N(q)`. There is no connection: its norm lies inside the
  path, which no read, write and mix can say.

  Attributes:
    attention: as in `Block`.
    feed_forward: as in `Block`.
    norm: as in `Block`; it norms p after each branch.
    dropout: rate, on the branch output.
    dtype: of branch inputs.
  """

  attention: Callable[..., nn.Module]
  feed_forward: Callable[..., nn.Module]
  norm: Callable[..., nn.Module]
  dropout: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, streams: jax.Array, layer: int | jax.Array, context: TokenContext
  ) -> jax.Array:
    """`[B, L, 2, d]` -> `[B, L, 2, d]`, p and q; sums are float32 and are rounded once."""
    del layer
    p, q = streams[..., 0, :], streams[..., 1, :]
    for name, make in {"attn": self.attention, "ffn": self.feed_forward}.items():
      y = make(name=name)(p.astype(self.dtype), context)
      y = nn.Dropout(self.dropout)(y, deterministic=context.deterministic).astype(jnp.float32)
      p = self.norm(name=f"{name}_norm")(p.astype(jnp.float32) + y).astype(streams.dtype)
      q = (q.astype(jnp.float32) + y).astype(streams.dtype)
    return jnp.stack([p, q], axis=-2)


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
