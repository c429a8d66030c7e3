"""The contract that every variant keeps, and everything that variants have in common."""

import dataclasses
import functools
import numbers
from collections.abc import Callable, Mapping
from typing import Any, Union

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.facts import Facts

# What a model takes for its `connection`: a class, a functools.partial of one, or an instance whose
# fields are copied to every site (its parameters never are).
ConnectionLike = Union[Callable[..., "Connection"], "Connection"]

# Fields that a model fills in with its own value where the connection leaves them None.
INHERITED = ("norm", "norm_params", "norm_eps")


class Connection(nn.Module):
  """One residual site: reads a branch input from the streams and writes the branch output back.

  Per token, with streams X `[n, w]` and a branch F: `X' = mix @ X + write @ F(read @ X)`.

      h, c = connection(streams, index)              # [..., n, w] -> [..., d]
      streams = connection.write(streams, branch(h), c)

  A variant is a subclass with one method, `coefs`; `facts` says what it claims. It owns parameters
  and nothing else, works on any leading axes, and is the same in training and in decoding.
  Parameters that make one map alone begin with its name ("read_", "mix_", "write_"), after
  "static_" if they are static; `parts` needs overriding where they do not.

  Attributes:
    num_streams: n, the paper's expansion rate.
    fractions: m, the number of parts into which the width is cut; d = m * w.
    num_views: how many inputs the branch reads, each with weights of its own (queries, keys and
      values, say). With more than one the branch input is `[..., num_views, m * w]`.
    implementation: "auto" has hand-written derivatives, "autodiff" leaves them to JAX; they are
      equal to rounding, and forward-mode differentiation needs "autodiff".
  """

  num_streams: int = 4
  fractions: int = 1
  num_views: int = 1
  implementation: str = "auto"

  @property
  def slots(self) -> int:
    """Rows of `read`: one for each fraction of each view."""
    return self.num_views * self.fractions

  def coefs(self, streams: jax.Array, index: int | jax.Array) -> Coefs:
    """The maps of this site; `@nn.compact` in a subclass.

    Args:
      streams: `[..., n, w]`.
      index: which sublayer of the network this is, from 0; traced under `nn.scan`.

    Returns:
      `read` `[..., slots, n]`, `write` `[..., n, fractions]`, `mix` `[..., n, n]` or None.
    """
    raise NotImplementedError(f"{type(self).__name__} must define coefs(streams, index)")

  def check(self) -> None:
    """Raises ValueError, with the remedy, if the fields do not go together."""
    for name in ("num_streams", "fractions", "num_views"):
      value = getattr(self, name)
      if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number, an int")
      if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")
    if self.num_streams < self.fractions:
      raise ValueError(
        f"num_streams={self.num_streams} streams cannot hold fractions={self.fractions}: "
        "num_streams must be at least fractions"
      )
    ops.check_implementation(self.implementation)

  def facts(self, d_model: int) -> Facts:
    """What this connection claims in a model of that width; nothing by default."""
    del d_model
    return Facts()

  def frozen(self) -> frozenset[str]:
    """Names of parameters that on purpose get no gradient."""
    return frozenset()

  def parts(self, params: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
    """This site's parameters, or their gradients, by the map they make.

    Returns:
      "read", "mix" and "write", and "all" for what serves several maps.
    """
    found = {"read": {}, "mix": {}, "write": {}, "all": {}}
    for name, leaf in params.items():
      head = name.removeprefix("static_").split("_")[0]
      found[head if head in found else "all"][name] = leaf
    return found

  def __call__(
    self,
    streams: jax.Array,
    index: int | jax.Array = 0,
    *,
    dtype: jax.typing.DTypeLike | None = None,
  ) -> tuple[jax.Array, Coefs]:
    """Reads the branch input.

    Args:
      streams: `[..., n, w]`.
      index: which sublayer of the network this is, from 0: attention of block l is 2l, its
        feed-forward 2l + 1. Initial values depend on it. May be traced.
      dtype: of the branch input; the streams' own by default.

    Returns:
      The branch input `[..., m * w]` (`[..., num_views, m * w]` with several views) and the float32
      coefficients, which go into `write`.

    Raises:
      ValueError: if the streams do not have `num_streams` streams, or are not of floating point, or
        by `check`.
    """
    self.check()
    if is_plain := ops.is_plain():
      if streams.ndim < 2 or streams.shape[-2] != 1:
        raise ValueError(
          f"{type(self).__name__}: plain_residual() is on, but there are streams {streams.shape} "
          "in place of [..., 1, d]; make them with hc_jax.expand within it too"
        )
    elif streams.ndim < 2 or streams.shape[-2] != self.num_streams:
      fractions = f", {self.fractions}" if self.fractions > 1 else ""
      raise ValueError(
        f"{type(self).__name__} has num_streams={self.num_streams} and takes streams "
        f"[..., {self.num_streams}, w], but got {streams.shape}; make them with "
        f"hc_jax.expand(x, {self.num_streams}{fractions})"
      )
    with jax.named_scope("hc/coefs"):
      coefs = plain_coefs(self.num_views) if is_plain else self.coefs(streams, index)
      coefs = jax.tree.map(lambda a: checkpoint_name(a.astype(jnp.float32), "coefs"), coefs)
    self.sow("intermediates", "coefs", coefs)
    with jax.named_scope("hc/read"):
      branch_input = ops.read(streams, coefs, dtype, implementation=self.implementation)
      if self.num_views > 1:
        branch_input = branch_input.reshape(*streams.shape[:-2], self.num_views, -1)
    return checkpoint_name(branch_input, "branch_input"), coefs

  def write(self, streams: jax.Array, branch_output: jax.Array, coefs: Coefs) -> jax.Array:
    """Writes the branch output `[..., m * w]` and mixes: the next streams, in the streams' dtype.

    Raises:
      ValueError: if the branch output has another shape than the branch input (one view of it), or
        is not of floating point; if coefs are of other streams, in number or in leading axes.
    """
    with jax.named_scope("hc/write"):
      branch_output = checkpoint_name(branch_output, "branch_output")
      return ops.write(streams, branch_output, coefs, implementation=self.implementation)


def check_one_fraction(connection: Connection) -> None:
  """Raises ValueError, with the remedy, if the connection's width is cut."""
  if connection.fractions != 1:
    raise ValueError(
      f"{type(connection).__name__} has one fraction, not fractions={connection.fractions}; leave "
      "it unset: FracConnection cuts the width"
    )


def plain_coefs(num_views: int = 1) -> Coefs:
  """Those of `x' = x + F(x)`: one stream, all weights one."""
  ones = jnp.ones((num_views, 1), jnp.float32)
  return Coefs(read=ones, write=ones[:1], mix=None)


def connection_factory(connection: ConnectionLike, **inherited: Any) -> functools.partial:
  """Whatever a user gives as a model's connection, as a partial of its class.

  Args:
    connection: a class, a partial of one, or an instance (its fields are taken, it is not shared).
    **inherited: the model's own values, for fields of `INHERITED` that the connection has and
      leaves None.

  Returns:
    A partial that makes one site's connection: `factory(name=...)`.

  Raises:
    TypeError: if it is none of the three.
  """
  if isinstance(connection, Connection):
    cls = type(connection)
    given = {f: getattr(connection, f) for f in connection_fields(cls)}
  elif isinstance(connection, functools.partial):
    cls, given = connection.func, dict(connection.keywords)
  else:
    cls, given = connection, {}
  if not (isinstance(cls, type) and issubclass(cls, Connection)):
    raise TypeError(
      f"connection={connection!r} is no connection; give a class such as hc_jax.HyperConnection, "
      "functools.partial(hc_jax.HyperConnection, num_streams=2), or an instance"
    )
  fields = connection_fields(cls)
  for name, value in inherited.items():
    if name in fields and given.get(name, fields[name]) is None:
      given[name] = value
  return functools.partial(cls, **given)


def connection_fields(cls: type[Connection]) -> dict[str, Any]:
  """The fields of a connection class and their defaults, without Flax's own."""
  return {f.name: f.default for f in dataclasses.fields(cls) if f.name not in ("parent", "name")}
