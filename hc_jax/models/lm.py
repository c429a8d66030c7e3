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
  "segments of layers with connections of their own, the lowest first: (count, name) or (count, "
  "fields), and (count, {}) for model.connection; the counts add up to num_layers"
)
# Fields with other types in a model than in a config.
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
    vocab_size: V, the number of rows of the embedding.
    d_model: d, the width of the embedding and of every branch input.
    num_heads: number of query heads, a divisor of d_model.
    num_layers: number of blocks. Each has two branches. With `layers` it may be left out.
    connection: a connection class, a partial of one, or an instance; DHC with 4 streams by default.
      Fields that it leaves None (norm, norm_params, norm_eps) take the model's values.
    layers: segments of layers with connections of their own: `((2, hc.Residual), (4, None))` is two
      residual layers below four of `connection`. `SegmentedStack` converts streams between them.
    block: kind of block: "sequential", "parallel" (`ParallelBlock`: one site per block), or "whole"
      (`WholeBlock`: one site around a block with residuals of its own).
    attention_views: whether queries, keys and values have three separate reads of the streams, each
      with weights of its own; in whole blocks the inner residual has a fourth.
    expand: kind of `Expand` at the beginning; by default the connection's own.
    expand_init_std: standard deviation of the initial noise of "scaling" and "embedding".
    reduce: kind of `Reduce` at the end; by default the connection's own. Kinds that belong to
      certain connections are refused for all others.
    num_kv_heads: number of key and value heads; num_heads by default.
    d_ff: inner width of the feed-forward; 4 d_model by default.
    max_length: largest number of positions, and the number of entries of the KV cache.
    activation: "gelu" or "swiglu".
    norm: "layernorm" or "rmsnorm".
    norm_params: whether norms have a scale (and layernorm a bias).
    norm_eps: added to the variance.
    final_norm_eps: added to the variance in the final norm; by default norm_eps, or the
      connection's own where its end replaces the final norm.
    norm_position: "pre" or "post". A connection that norms its read replaces the norm of "pre". A
      connection with a normed end replaces the final norm.
    positions: "rotary" or "learned".
    rotary_theta: base of the rotary wavelengths.
    qk_norm: whether queries and keys are normed, with parameters.
    dropout: rate of dropout on branch outputs.
    tie_embeddings: whether the output layer is the token embedding.
    causal: whether tokens see only earlier tokens and themselves; false makes an encoder.
    init_std: standard deviation of all initial weights.
    output_init_scale: factor of init_std for every branch's output projection. "sqrt_n" is the
      square root of the number of streams, as in the paper's own models (2409.19606). It does not
      undo the sum over streams: the sum of n equal streams is n times as large as one, a factor
      that the final norm removes.
    dtype: dtype of the matrix products; parameters are float32.
    stream_dtype: dtype of the streams; by default dtype.
    scan: whether layers are scanned over stacked parameters, or run in a Python loop.
    remat: policy for the backward pass, which decides what is computed again: "none", "branches",
      "full" or "blocks:K"; see `Stack` (docs/performance.md).

  Raises:
    ValueError: by `check`, which `init` and `apply` run, if fields have values that they do not
      take, or that do not fit each other.
  """

  vocab_size: int = field(
    least=1, unset=True, meaning="number of rows of the embedding; by default the tokenizer's size"
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
    """Raises ValueError, with the remedy, if the fields do not fit each other; compiles nothing.

    Equal models are checked only once, even if they are traced often.
    """
    connections = jax.tree.leaves((self.connection, self.layers))
    if any(isinstance(each, nn.Module) for each in connections):
      return self._check()  # a cache would keep the scope that modules hold while they are traced
    fields = {k: v for k, v in values_of(self).items() if k not in ("parent", "name")}
    return _check_once(type(self), tuple(fields.items()))

  @nn.nowrap
  def _check(self) -> None:
    declared = {name: found for name, found in fields_of(type(self)).items() if name not in _OTHERS}
    if wrong := next(problems(values_of(self), declared), None):
      raise ValueError(wrong)
    kv_heads = self.num_kv_heads or self.num_heads
    check_heads(self.d_model, self.num_heads, kv_heads, self.positions == "rotary")
    self.end_kinds()
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
    """Raises ValueError if a connection's fields do not fit this network."""
    for name, value in self._inherited().items():
      found = getattr(connection, name, value)
      if name in PLACE and found != value:
        raise ValueError(
          f"{type(connection).__name__} has {name}={found}, but this model has {name}={value}; "
          f"leave {name} unset, the model fills it in"
        )
    if connection.sites_differ and self.scan:
      raise ValueError(
        f"scan=True needs parameters of equal shapes, but those of {type(connection).__name__} "
        "differ from site to site; set scan=False, or padded=True"
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
    expand, reduce = self.end_kinds()
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
    """Returns the logits of the next token, float32 `[B, L, V]`.

    Args:
      tokens: int32 `[B, L]`.
      positions: int32 `[B, L]` or `[1, L]`; by default 0, 1, ..., and in decoding the next ones.
      segment_ids: int32 `[B, L]`; tokens see only their own segment (packed documents).
      padding_mask: bool `[B, L]`, true for real tokens. No token sees the others.
      deterministic: whether dropout is off. With dropout, apply with `rngs={"dropout": key}`.
      decode: whether to append to the `cache` collection (make it mutable) and to attend to all of
        its tokens.

    Raises:
      ValueError: if the tokens do not have two axes or exceed max_length, or if decode comes with
        segment_ids or padding_mask. Decoding past the end of the cache gives NaN instead, because a
        compiled step cannot raise.
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
    """Returns the reduced streams, float32 `[B, L, d]`, before the final norm.

    Arguments and errors are those of `__call__`. Where the connection's end replaces the final
    norm, the result is normed.
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
    if decode:  # without this, a full cache would be overwritten silently
      hidden = jnp.where(positions[..., None] < self.max_length, hidden, jnp.nan)
    return hidden

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Returns the logits of `hidden`'s result: float32 `[B, L, d]` to float32 `[B, L, V]`."""
    if ops.is_plain() or self.end_kinds()[1] not in ends.NORMED:
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
    """Returns each segment's number of layers and connection, the lowest first."""
    return connections_of(self.layers, self.num_layers, self.connection, **self._inherited())

  @nn.nowrap
  def connections(self) -> list[Connection]:
    """Returns the unbound connections of all segments, the lowest first."""
    return [connection(parent=None) for _, connection in self._segments()]

  @nn.nowrap
  def end_kinds(self) -> tuple[str, str]:
    """Returns the kinds of `Expand` and `Reduce`."""
    made = self.connections()
    return ends.chosen(made[0], made[-1], self.expand, self.reduce)

  def _views(self) -> int:
    """Returns the number of inputs of the attention."""
    return VIEWS if self.attention_views else 1

  def _block(self, norm: Callable[..., nn.Module], connection: functools.partial) -> Callable:
    """Returns a factory of blocks with the given connection."""
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
  """Counter of the tokens in a KV cache, which all layers share."""

  @nn.compact
  def __call__(self, length: int) -> jax.Array:
    """Returns the positions of the next `length` tokens, int32 `[1, length]`, and counts them."""
    index = self.variable("cache", "index", jnp.zeros, (), jnp.int32)
    positions = index.value + jnp.arange(length, dtype=jnp.int32)[None]
    index.value = index.value + length
    return positions
