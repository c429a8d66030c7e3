"""The two ends of a hyper-connected network: one state becomes streams, and streams one state."""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes, ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection
from hc_jax.connections.declare import Param, bind
from hc_jax.connections.factory import ConnectionLike, connection_factory

EXPAND = ("copy", "scaling", "embedding", "first")
REDUCE = ("sum", "mean", "head", "read", "first", "backout", "depth", "gated", "exit")
# Kinds that belong to certain connections. These connections take no other kind, and no other
# connection takes their kind.
OWN = {"read", "first", "backout", "depth", "gated", "exit"}
# Kinds whose result is already normed, so that a model leaves out its final norm.
NORMED = ("gated",)


class Expand(nn.Module):
  """Module that turns an embedding `[..., m * w]` into streams `[..., n, w]`.

  * "copy": every stream is a copy, as in `hc_jax.expand`.
  * "scaling": `X[j] = scale[j] * x`, the learned stream scaling of arXiv 2606.03483.
  * "embedding": `X[j] = x + bias[j]`, like position embeddings.
  * "first": the embedding goes into stream 0 (its m fractions into the first m streams), and the
    others are zero. Connections whose streams are slots begin so.

  Equal streams get equal gradients and stay equal forever if the maps treat them alike. Some
  connections make them differ (HC reads one stream after the other). "scaling" and "embedding" do
  it for any connection, with `n * w` parameters and no weight decay. Scales start at one and biases
  at zero, plus normal noise of standard deviation `init_std`. With `init_std=0` the network starts
  exactly as with copies. The authors' code starts scales at 0.6 plus Xavier-uniform noise, +-0.09
  at n = 4, w = 768.

  Attributes:
    num_streams: n, the number of streams.
    fractions: m, the number of parts into which the width is cut, as in `hc_jax.expand`.
    kind: "copy", "scaling", "embedding" or "first". "copy" and "first" have no parameters.
    init_std: standard deviation of the initial noise.
    partitioned: whether parameters carry the logical names of their axes
      (`flax.linen.LogicallyPartitioned`).

  Raises:
    ValueError: when called, if the kind is unknown, m does not divide the width, or n < m.
  """

  num_streams: int
  fractions: int = 1
  kind: str = "copy"
  init_std: float = 0.02
  partitioned: bool = False

  NAMES: ClassVar = ("scale", "bias")  # names of the parameters of all kinds

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the streams `[..., n, w]` of `x` `[..., m * w]`, in x's dtype.

    Computes in float32 and rounds once.

    Raises:
      ValueError: if the kind is unknown, m does not divide the width, or n < m.
    """
    check_kind("expand", self.kind, EXPAND)
    streams = ops.expand(x, self.num_streams, self.fractions)
    if self.kind == "copy" or ops.is_plain():
      return streams
    if self.kind == "first":
      filled = ops.lift(jnp.arange(self.num_streams)[:, None] < self.fractions, streams.ndim)
      return axes.constrain(jnp.where(filled, streams, 0), axes.stream_axes(streams.ndim))
    noise = nn.initializers.normal(self.init_std)
    shape, lead = streams.shape[-2:], (1,) * (streams.ndim - 2)
    out = streams.astype(jnp.float32)
    name, init = "bias", noise
    if self.kind == "scaling":
      name, init = "scale", lambda key, shape, dtype: 1 + noise(key, shape, dtype)
    declared = {name: Param(shape, init, axes=(None, "embed"))}
    parameter = bind(self, declared, self.partitioned)[name].reshape(*lead, *shape)
    out = out * parameter if self.kind == "scaling" else out + parameter
    return axes.constrain(out.astype(x.dtype), axes.stream_axes(out.ndim))


class Reduce(nn.Module):
  """Module that turns streams `[..., n, w]` into one state `[..., m * w]`, before the final norm.

  * "sum" and "mean" have no parameters. They differ by the factor n/m, which a final norm removes.
  * "head" is DeepSeek-V4's: `sum_j weight[j] X[j]` with, per token, `weight = sigmoid(scale *
    (rmsnorm(X) @ kernel) + bias) + 1e-6`, where the norm runs over all n w numbers of a token.
    After doubly stochastic maps, the last mix has no effect and no gradient with a sum or mean; a
    head gives it both. Parameters: `n w n + n + 1`. The kernel starts as fan-in normal (V4's
    initial values are not published), bias at zero, scale at 0.01: all weights are near one half.
    From equal streams a head makes a multiple of one, so that before a norm the network starts as
    with a sum.
  * "read" uses the read that the last site made, for variants that carry their read.
  * "first" returns stream 0, the state of `X0Lambdas`.
  * "backout" is `X[0] - scale * X[2]`: it subtracts a part of the state that `X0Lambdas` kept. The
    scale is one learned number, and starts at 0.2.
  * "depth" is one more read of `AttentionResiduals`, over all slots: `sum_j softmax(s)_j X[j]` with
    `s_j = <scale * depth_query, rmsnorm(X[j])>`. Parameters: `2w`; the query starts at zero, which
    gives the mean, and the scale at one. With m fractions (multi-head attention residuals) a slot
    is m streams, the norm is over the whole slot, and each fraction has its own softmax: `2mw`.
  * "gated" is one more read of `GatedResidual`, without a write. It norms the streams, so that no
    final norm follows. Parameters: `nw + 2nwr`, where r is the rank of the connection.
  * "exit" is one more read of a connection that defines `Connection.exit`, without a write, such as
    the weighted sum at the end of `hc_jax.connections.contrib.DenseFormer`.

  Where the width is cut into m fractions, "sum", "mean", "head" and "depth" add the copies of each
  fraction and join the fractions into the width. The kinds "first" and "backout" take m streams for
  each stream named above. The kinds "gated" and "exit" follow the connection and do not use
  `fractions`.
  Within `hc_jax.plain_residual` there is one stream and no parameter.

  Attributes:
    fractions: m, the number of parts into which the width is cut, as in `hc_jax.reduce`.
    kind: one of the nine kinds above.
    norm_eps: added to the mean square in the norms of "head" and "depth".
    partitioned: whether parameters carry the logical names of their axes
      (`flax.linen.LogicallyPartitioned`).
    connection: connection of the last site, or a function that makes it, for the kinds "gated" and
      "exit".

  Raises:
    ValueError: when called; `__call__` lists the cases.
  """

  fractions: int = 1
  kind: str = "sum"
  norm_eps: float = 1e-6
  partitioned: bool = False
  connection: ConnectionLike | None = None

  # Names of the parameters of all kinds.
  NAMES: ClassVar = ("kernel", "bias", "scale", "depth_query")
  NAMES += ("down_kernel", "up_kernel", "norm_gamma", "static_read")
  NAMES += ("hidden_kernel", "weights_kernel", "read_scale")

  @nn.compact
  def __call__(self, streams: jax.Array, read: jax.Array | None = None) -> jax.Array:
    """Computes one state from the streams.

    Args:
      streams: `[..., n, w]`.
      read: `next_read` of the last site, `[..., m, n]`, for the kind "read".

    Returns:
      float32 `[..., m * w]`.

    Raises:
      ValueError: if the kind is unknown or n < m, or if the kind lacks what it needs. The kind
        "read" needs a read, "backout" at least 3 m streams, "depth" a multiple of m streams,
        "gated" and "exit" a connection with such an end and as many streams.
    """
    check_kind("reduce", self.kind, REDUCE)
    if ops.is_plain():
      return ops.reduce(streams, self.fractions)
    if self.kind == "read":
      if read is None:
        raise ValueError(
          'reduce="read" needs the read that the last site made; give it coefs.next_read'
        )
      return ops.read(streams, Coefs(read, read.swapaxes(-1, -2), None), jnp.float32)
    if self.kind == "first":
      return ops.reduce(streams[..., : self.fractions, :], self.fractions)
    if self.kind == "backout":
      return self._backout(streams)
    if self.kind in ("gated", "exit"):
      return self._exit(streams)
    if self.kind == "head":
      weights = self._weights(streams.astype(jnp.float32))
      streams = weights[..., None] * streams.astype(jnp.float32)
    if self.kind == "depth":
      streams = self._depth_weights(streams) * streams.astype(jnp.float32)
    out = ops.reduce(streams, self.fractions)
    return out * (self.fractions / streams.shape[-2]) if self.kind == "mean" else out

  def _backout(self, streams: jax.Array) -> jax.Array:
    """Computes `X[0] - scale * X[2]`, where each X is m streams if the width is cut."""
    m, n = self.fractions, streams.shape[-2]
    if n < 3 * m:
      raise ValueError(
        f'reduce="backout" subtracts a part of stream 2, but there are {n} streams; give {3 * m}, '
        'or choose "first"'
      )
    scale = Param((1,), nn.initializers.constant(0.2))
    scale = bind(self, {"scale": scale}, self.partitioned)["scale"]
    state, kept = (ops.reduce(streams[..., i : i + m, :], m) for i in (0, 2 * m))
    return state - scale.reshape((1,) * state.ndim) * kept

  def _exit(self, streams: jax.Array) -> jax.Array:
    """Computes the read of one more site, float32 `[..., d]`."""
    if self.connection is None:
      raise ValueError(
        f'reduce="{self.kind}" is one more read of a connection; give it the connection of the '
        f'last site, Reduce(kind="{self.kind}", connection=connection)'
      )
    end = connection_factory(self.connection)(parent=None).exit()
    end.check()
    if streams.shape[-2] != end.num_streams:
      raise ValueError(
        f'reduce="{self.kind}": the connection has num_streams={end.num_streams}, but there are '
        f"{streams.shape[-2]} streams {streams.shape}; give the connection of the last site"
      )
    index = getattr(end, "num_sites", None) or 0  # the number of a site after the last one
    params = bind(self, end.declare(streams.shape[-1], index), self.partitioned)
    options = {"implementation": end.implementation, "derivatives": end.derivatives}
    coefs = ops.coefs(streams, end.generate(params, index), **options)
    return ops.read(streams, coefs, jnp.float32, **options)

  def _weights(self, streams: jax.Array) -> jax.Array:
    """Computes the weight of every stream for "head", float32 `[..., n]`."""
    n, w = streams.shape[-2:]
    lead = (1,) * (streams.ndim - 2)
    normal = nn.initializers.normal((n * w) ** -0.5)
    declared = {
      "kernel": Param((n, w, n), normal, axes=(None, "embed", None)),
      "bias": Param((n,), nn.initializers.zeros),
      "scale": Param((1,), nn.initializers.constant(0.01)),
    }
    made = bind(self, declared, self.partitioned)
    logits = ops.project(
      streams, made["kernel"], norm="rmsnorm", eps=self.norm_eps, derivatives="autodiff"
    )
    logits = made["scale"].reshape(*lead, 1) * logits + made["bias"].reshape(*lead, n)
    return nn.sigmoid(logits) + 1e-6

  def _depth_weights(self, streams: jax.Array) -> jax.Array:
    """Computes the weight of every stream for "depth", float32 `[..., n, 1]`.

    The weights of one fraction sum to one.
    """
    m, w = self.fractions, streams.shape[-1]
    shape, names = ((w,), ("embed",)) if m == 1 else ((m, w), (None, "embed"))
    declared = {
      "depth_query": Param(shape, nn.initializers.zeros, axes=names),
      "scale": Param(shape, nn.initializers.ones, axes=names),
    }
    made = bind(self, declared, self.partitioned)
    query = made["depth_query"]
    scores = ops.project(
      streams,
      query[:, None] if m == 1 else own_fractions(query[None]),
      norm="rmsnorm",
      scale=made["scale"],
      eps=self.norm_eps,
      norm_over="all" if m == 1 else "group",
      derivatives="autodiff",
    )
    weights = jax.nn.softmax(scores, axis=-2)  # `[..., n / m, m]`, slot by slot
    return weights.reshape(*streams.shape[:-1], 1)


def own_fractions(query: jax.Array) -> jax.Array:
  """Returns a kernel for groups of m streams, in which every column uses one stream.

  Args:
    query: `[v, m, w]`.

  Returns:
    `[m, w, v m]`; column `i m + h` holds `query[i, h]` for stream h, and zeros for the others.
  """
  views, m, w = query.shape
  own = jnp.eye(m, dtype=query.dtype)[:, None, None, :]
  return (query.transpose(1, 2, 0)[..., None] * own).reshape(m, w, views * m)


def chosen(
  first: Connection, last: Connection, expand: str | None, reduce: str | None
) -> tuple[str, str]:
  """Returns the kinds of `Expand` and `Reduce` of a model.

  Args:
    first: connection of the first site.
    last: connection of the last site.
    expand: kind that the model is given, or None for the kind of the first connection.
    reduce: kind that the model is given, or None for the kind of the last connection.

  Raises:
    ValueError: if a kind is unknown, or the connection needs another one.
  """
  kinds = (expand or first.expand_kind, reduce or last.reduce_kind)
  check_kind("expand", kinds[0], EXPAND)
  check_kind("reduce", kinds[1], REDUCE)
  name = type(last).__name__
  if last.carries_read and kinds[1] != "read":
    raise ValueError(
      f"reduce={reduce!r} would not use the read that the last site of {name} makes for the end; "
      "leave reduce unset"
    )
  if kinds[1] == "read" and not last.carries_read:
    raise ValueError(
      f'reduce="read" needs a connection that carries its read, and {name} does not; leave reduce '
      "unset, or choose SinglePassMHC"
    )
  if kinds[1] != last.reduce_kind and not OWN.isdisjoint((kinds[1], last.reduce_kind)):
    raise ValueError(
      f"reduce={kinds[1]!r} does not go with {name}, which has {last.reduce_kind!r}; leave reduce "
      "unset"
    )
  if first.reduce_kind in ("first", "backout") and kinds[0] == "first":
    raise ValueError(
      f"expand={expand!r} does not go with {type(first).__name__}, which keeps the embedding in "
      "stream 1; leave expand unset"
    )
  if first.keeps_history and kinds[0] != first.expand_kind:
    raise ValueError(
      f"expand={expand!r} does not go with {type(first).__name__}, whose slots are empty at first; "
      "leave expand unset"
    )
  return kinds


def check_kind(field: str, kind: str, kinds: Sequence[str]) -> None:
  """Raises ValueError unless the kind is one of the kinds that exist."""
  if kind not in kinds:
    raise ValueError(f"{field}={kind!r} is unknown; choose one of {', '.join(kinds)}")
