"""The decoder language model."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes, ops
from hc_jax.connections import (
  Connection,
  ConnectionLike,
  Expand,
  HyperConnection,
  Reduce,
  connection_factory,
  ends,
)
from hc_jax.connections.carry import split, start
from hc_jax.connections.factory import PLACE
from hc_jax.fields import field, fields_of, problems, values_of
from hc_jax.models import remat
from hc_jax.models.attention import VIEWS, Attention, attention_mask, check_heads
from hc_jax.models.blocks import (
  BLOCKS,
  KINDS,
  NORM_POSITIONS,
  REMOVED,
  check_branch,
  check_norm_position,
  read_views,
  sites_per_block,
  with_views,
)
from hc_jax.models.layers import (
  ACTIVATIONS,
  Dtype,
  Embed,
  FeedForward,
  Norm,
  TokenContext,
  output_logits,
)
from hc_jax.models.segments import (
  Layers,
  check_connection,
  check_segments,
  connections_of,
  count_layers,
)
from hc_jax.models.stack import Segment, SegmentedStack, Stack

DTYPES = ("float32", "bfloat16", "float16")
_LAYERS = (
  "connections that differ between layers, the lowest first: (count, name) or (count, fields), and "
  "(count, {}) for model.connection; the counts add up to num_layers"
)
# Fields that a model takes in other forms than a config does.
_OTHERS = ("parent", "name", "connection", "layers", "dtype", "stream_dtype")


@functools.lru_cache(maxsize=64)
def _check_once(cls: type["TransformerLM"], fields: tuple[tuple[str, Any], ...]) -> None:
  cls(**dict(fields), parent=None)._check()


class TransformerLM(nn.Module):
  """A transformer language model whose residual connections are any `Connection`.

      model = TransformerLM(vocab_size=50257, d_model=768, num_layers=12, num_heads=12)
      variables = model.init(jax.random.key(0), tokens)
      logits = model.apply(variables, tokens)                      # [B, L, vocab_size]

  Attributes:
    vocab_size: V, rows of the embedding.
    d_model: d, the width of the embedding and of every branch input.
    num_heads: query heads.
    num_layers: blocks; each has two sublayers. With `layers` it may be left out.
    connection: a class of connection, a partial of one, or an instance; DHC with 4 streams by
      default. Fields it leaves None (norm, norm_params, norm_eps) are the model's.
    layers: for connections that differ between layers: `((2, hc.Residual), (4, None))` is two
      residual layers below four of `connection`. See `SegmentedStack` for how streams change.
    block: "sequential", "parallel" (`ParallelBlock`: one site a block), or "whole" (`WholeBlock`:
      one site around a block with residuals of its own).
    attention_views: whether queries, keys and values are made of three reads of the streams, each
      with weights of its own, in place of one; in whole blocks the inner residual of a fourth.
    expand: how streams begin, a kind of `Expand`; the connection's own by default.
    expand_init_std: of the initial noise of "scaling" and "embedding".
    reduce: how they end, a kind of `Reduce`; the connection's own by default. "read"
      and "depth" go with the connections that have them.
    num_kv_heads: key and value heads; num_heads by default.
    d_ff: inner width of the feed-forward; 4 d_model by default.
    max_length: largest number of positions, and the slots of the KV cache.
    activation: "gelu" or "swiglu".
    norm: "layernorm" or "rmsnorm".
    norm_params: whether norms have a scale (and layernorm a bias).
    norm_eps: added to the variance.
    final_norm_eps: that of the final norm; by default norm_eps, or the connection's own where its
      end is the final norm.
    norm_position: "pre" or "post". A connection that norms its read takes the place of "pre", and
      one whose end is normed takes that of the final norm.
    positions: "rotary" or "learned".
    rotary_theta: base of the rotary wavelengths.
    qk_norm: whether queries and keys are normed, with parameters.
    dropout: rate on branch outputs.
    tie_embeddings: whether the output layer is the token embedding.
    causal: false makes it an encoder.
    init_std: standard deviation of all initial weights.
    output_init_scale: multiplies it for every sublayer's output projection. "sqrt_n" is the square
      root of the number of streams, which the paper's own models have (2409.19606). It does not
      undo the sum over streams: n equal streams at initialisation have n times the standard
      deviation of one, which the final norm takes out.
    dtype: of the matrix products; parameters are float32.
    stream_dtype: of the streams; dtype by default.
    scan: scan over stacked layers, or a Python loop.
    remat: what the backward pass computes again: "none", "branches", "full" or "blocks:K"; see
      `Stack` (docs/performance.md).
  """

  vocab_size: int = field(
    least=1, unset=True, meaning="rows of the embedding; the tokenizer's by default"
  )
  d_model: int = field(least=1)
  num_heads: int = field(least=1)
  num_layers: int | None = field(None, least=1, unset=False)
  connection: ConnectionLike = HyperConnection
  layers: Layers = field((), kind=tuple, meaning=_LAYERS)
  block: str = field("sequential", choices=BLOCKS, check=REMOVED.get)
  attention_views: bool = False
  expand: str | None = field(None, choices=ends.EXPAND)
  expand_init_std: float = field(0.02, least=0)
  reduce: str | None = field(None, choices=ends.REDUCE)
  num_kv_heads: int | None = field(None, least=1)
  d_ff: int | None = field(None, least=1)
  max_length: int = field(2048, least=1)
  activation: str = field("gelu", choices=ACTIVATIONS)
  norm: str = field("layernorm", choices=ops.NORMS)
  norm_params: bool = False
  norm_eps: float = field(1e-5, least=0)
  final_norm_eps: float | None = field(None, least=0)
  norm_position: str = field("pre", choices=NORM_POSITIONS)
  positions: str = field("rotary", choices=("rotary", "learned"))
  rotary_theta: float = field(10000.0, least=1)
  qk_norm: bool = False
  dropout: float = field(0.0, least=0, below=1)
  tie_embeddings: bool = True
  causal: bool = True
  init_std: float = field(0.02, least=0)
  output_init_scale: float | str = field(1.0, least=0, words=("sqrt_n",))
  dtype: Dtype = field(jnp.float32, kind=str, choices=DTYPES)
  stream_dtype: Dtype | None = field(None, kind=str, choices=DTYPES)
  scan: bool = True
  remat: str = field("branches", check=remat.problem)

  def __post_init__(self) -> None:
    if self.num_layers is None and self.layers:
      self.num_layers = count_layers(self.layers)
    super().__post_init__()

  @nn.nowrap
  def check(self) -> None:
    """Raises ValueError, with the remedy, if the fields do not go together; compiles nothing.

    Equal models are checked once, however often they are traced.
    """
    connections = jax.tree.leaves((self.connection, self.layers))
    if any(isinstance(each, nn.Module) for each in connections):
      return self._check()  # in a trace they hold its scope, which must not be kept
    fields = {k: v for k, v in values_of(self).items() if k not in ("parent", "name")}
    return _check_once(type(self), tuple(fields.items()))

  @nn.nowrap
  def _check(self) -> None:
    declared = {name: found for name, found in fields_of(type(self)).items() if name not in _OTHERS}
    if wrong := next(problems(values_of(self), declared), None):
      raise ValueError(wrong)
    kv_heads = self.num_kv_heads or self.num_heads
    check_heads(self.d_model, self.num_heads, kv_heads, self.positions == "rotary")
    self._ends()
    check_segments(self.connections())
    if self.attention_views and self.block == "parallel":
      raise ValueError(
        f"attention_views needs block='sequential' or 'whole': in block={self.block!r} attention "
        "has no read of its own"
      )
    if self.norm_position == "post" and self.block == "whole":
      raise ValueError(
        "norm_position='post': a whole block norms what its branches read; leave norm_position at "
        "'pre', or choose block='sequential'"
      )
    for count, connection in self._segments():
      remat.check_groups(self.remat, count)
      with_views(connection, 1)
      check_connection(connection, self.d_model)
      check_norm_position(self.norm_position, connection(parent=None))
      check_branch(self.block, connection(parent=None))
      self._check_place(connection(parent=None))

  @nn.nowrap
  def _check_place(self, connection: Connection) -> None:
    """Raises ValueError if a connection says that it is in another network than this."""
    for name, value in self._inherited().items():
      found = getattr(connection, name, value)
      if name in PLACE and found != value:
        raise ValueError(
          f"{type(connection).__name__} has {name}={found}, but this model has {name}={value}; "
          f"leave {name} unset, the model fills it in"
        )
    if connection.sites_differ and self.scan:
      raise ValueError(
        f"scan=True stacks parameters of one shape, and those of {type(connection).__name__} as it "
        "is given differ from site to site; set scan=False, or padded=True"
      )
    if connection.carries_read and self.attention_views:
      raise ValueError(
        "attention_views=True needs several reads at a site, and "
        f"{type(connection).__name__} hands one read from site to site; leave attention_views off"
      )

  def setup(self) -> None:
    self.check()
    weights = {"init_std": self.init_std, "dtype": self.dtype}
    norm = functools.partial(
      Norm, kind=self.norm, params=self.norm_params, eps=self.norm_eps, dtype=self.dtype
    )
    self.token_embed = Embed(self.vocab_size, self.d_model, **weights)
    if self.positions == "learned":
      self.position_embed = Embed(self.max_length, self.d_model, axis="position", **weights)
    self.cursor = Cursor()
    segments = [
      Segment(count, self._block(norm, connection), connection(parent=None))
      for count, connection in self._segments()
    ]
    if len(segments) == 1:
      self.stack = Stack(segments[0].block, self.num_layers, scan=self.scan, remat=self.remat)
    else:
      self.stack = SegmentedStack(segments, scan=self.scan, remat=self.remat)
    first, last = segments[0].connection, segments[-1].connection
    expand, reduce = self._ends()
    self.expand_streams = Expand(
      first.num_streams, first.fractions, expand, self.expand_init_std, partitioned=True
    )
    exit_of = with_views(self._segments()[-1][1], read_views(self.block, self._views()))
    if reduce in ends.NORMED and self.final_norm_eps is not None:
      exit_of = functools.partial(exit_of, norm_eps=self.final_norm_eps)
    options = {"norm_eps": last.norm_eps} if reduce == "depth" else {}
    self.reduce_streams = Reduce(
      last.fractions, kind=reduce, partitioned=True, connection=exit_of, **options
    )
    self.final_norm = norm(
      eps=self.norm_eps if self.final_norm_eps is None else self.final_norm_eps
    )
    if not self.tie_embeddings:
      init = axes.partitioned(nn.initializers.normal(self.init_std), "embed", "vocab")
      self.output_kernel = self.param(
        "output_kernel", init, (self.d_model, self.vocab_size), jnp.float32
      )

  def __call__(
    self,
    tokens: jax.Array,
    *,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    padding_mask: jax.Array | None = None,
    deterministic: bool = True,
    decode: bool = False,
  ) -> jax.Array:
    """Logits of the next token.

    Args:
      tokens: int32 `[B, L]`.
      positions: int32 `[B, L]` or `[1, L]`; 0, 1, ... by default, and in decoding the next ones.
      segment_ids: int32 `[B, L]`; tokens see only their own segment (packed documents).
      padding_mask: bool `[B, L]`, true for real tokens; nobody sees the others.
      deterministic: no dropout; with dropout give `rngs={"dropout": key}`.
      decode: append to the `cache` collection (make it mutable) and attend to all of it.

    Returns:
      float32 `[B, L, V]`.

    Raises:
      ValueError: if the tokens exceed max_length, or decode comes with a mask. Decoding past the
        end of the cache, which a compiled step cannot raise for, gives NaN.
    """
    hidden = self.hidden(
      tokens,
      positions=positions,
      segment_ids=segment_ids,
      padding_mask=padding_mask,
      deterministic=deterministic,
      decode=decode,
    )
    return self.logits(hidden)

  def hidden(
    self,
    tokens: jax.Array,
    *,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    padding_mask: jax.Array | None = None,
    deterministic: bool = True,
    decode: bool = False,
  ) -> jax.Array:
    """The reduced streams, float32 `[B, L, d]`; arguments as `__call__`.

    They are those before the final norm. Where the connection's end is the final norm, they are
    normed.
    """
    if tokens.ndim != 2:
      raise ValueError(
        f"tokens have the shape {tokens.shape}, and the model takes [batch, length]; give one text "
        "a batch of its own: tokens[None]"
      )
    if tokens.shape[-1] > self.max_length:
      raise ValueError(
        f"{tokens.shape[-1]} tokens exceed max_length={self.max_length}; "
        "cut them, or build the model with a larger max_length"
      )
    if decode and (segment_ids is not None or padding_mask is not None):
      raise ValueError("decode takes no segment_ids or padding_mask: the cache holds one document")
    if positions is None:
      length = tokens.shape[-1]
      positions = self.cursor(length) if decode else jnp.arange(length, dtype=jnp.int32)[None]
    context = TokenContext(
      positions=positions,
      mask=attention_mask(segment_ids, padding_mask),
      deterministic=deterministic,
      decode=decode,
    )
    x = self.token_embed(tokens)
    if self.positions == "learned":
      x = x + self.position_embed(positions)
    x = axes.constrain(x, (axes.BATCH, axes.LENGTH, axes.EMBED))
    x = x.astype(self.dtype if self.stream_dtype is None else self.stream_dtype)
    carry = start(self.connections()[0], self.expand_streams(x))
    streams, carried = split(self.stack(carry, context))
    hidden = self.reduce_streams(streams, **carried)
    if decode:  # a full cache would be written over in silence
      hidden = jnp.where(positions[..., None] < self.max_length, hidden, jnp.nan)
    return hidden

  def logits(self, hidden: jax.Array) -> jax.Array:
    """float32 `[B, L, d]` -> float32 `[B, L, V]`."""
    if ops.is_plain() or self._ends()[1] not in ends.NORMED:
      x = self.final_norm(hidden)
    else:
      x = hidden.astype(self.dtype)
    if self.tie_embeddings:
      return self.token_embed.attend(x)
    return output_logits(x, self.output_kernel.astype(self.dtype))

  def _inherited(self) -> dict[str, Any]:
    norm = {"norm": self.norm, "norm_params": self.norm_params, "norm_eps": self.norm_eps}
    per_block = sites_per_block(self.block)
    sites = self.num_layers and self.num_layers * per_block
    return {**norm, "partitioned": True, "num_sites": sites, "sites_per_block": per_block}

  def _connection(self) -> functools.partial:
    return connection_factory(self.connection, **self._inherited())

  def _segments(self) -> list[tuple[int, functools.partial]]:
    """Numbers of layers and their connections, the lowest first."""
    return connections_of(self.layers, self.num_layers, self.connection, **self._inherited())

  @nn.nowrap
  def connections(self) -> list[Connection]:
    """Connections of all segments, unbound."""
    return [connection(parent=None) for _, connection in self._segments()]

  def _ends(self) -> tuple[str, str]:
    """How streams begin and end."""
    made = self.connections()
    return ends.chosen(made[0], made[-1], self.expand, self.reduce)

  def _views(self) -> int:
    """Inputs that the attention takes."""
    return VIEWS if self.attention_views else 1

  def _block(self, norm: Callable[..., nn.Module], connection: functools.partial) -> Callable:
    """Returns what makes a block that holds a connection."""
    scale = self.output_init_scale
    if scale == "sqrt_n":
      scale = math.sqrt(connection(parent=None).num_streams)
    outputs = {"init_std": self.init_std, "output_init_scale": scale, "dtype": self.dtype}
    views = self._views()
    attention = functools.partial(
      Attention,
      num_heads=self.num_heads,
      num_kv_heads=self.num_kv_heads,
      causal=self.causal,
      rotary_theta=self.rotary_theta if self.positions == "rotary" else None,
      qk_norm=functools.partial(norm, params=True) if self.qk_norm else None,
      max_length=self.max_length,
      num_views=views,
      **outputs,
    )
    feed_forward = functools.partial(
      FeedForward, d_ff=self.d_ff or 4 * self.d_model, activation=self.activation, **outputs
    )
    parts = {"attention": attention, "feed_forward": feed_forward, "norm": norm}
    parts |= {"dropout": self.dropout, "dtype": self.dtype}
    return functools.partial(
      KINDS[self.block],
      connection=connection,
      norm_position=self.norm_position,
      attention_views=views,
      **parts,
    )


class Cursor(nn.Module):
  """Counts the tokens of a KV cache: the one place that knows how far decoding is."""

  @nn.compact
  def __call__(self, length: int) -> jax.Array:
    """Positions of the next `length` tokens, int32 `[1, length]`; moves the cursor behind them."""
    index = self.variable("cache", "index", jnp.zeros, (), jnp.int32)
    positions = index.value + jnp.arange(length, dtype=jnp.int32)[None]
    index.value = index.value + length
    return positions
