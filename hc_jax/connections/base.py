"""The contract that every variant keeps, and everything that variants have in common."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Union

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from hc_jax import ops
from hc_jax.coefs import Coefs

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

  A variant is a subclass with one method, `coefs`. It owns parameters and nothing else, works on
  any leading axes, and is the same in training and in decoding.

  Attributes:
    num_streams: n, the paper's expansion rate.
    fractions: m, the number of parts into which the width is cut; d = m * w.
    implementation: "auto" has hand-written derivatives, "autodiff" leaves them to JAX; they are
      equal to rounding, and forward-mode differentiation needs "autodiff".
  """

  num_streams: int = 4
  fractions: int = 1
  implementation: str = "auto"

  def coefs(self, streams: jax.Array, index: int | jax.Array) -> Coefs:
    """The maps of this site; `@nn.compact` in a subclass.

    Args:
      streams: `[..., n, w]`.
      index: which sublayer of the network this is, from 0; traced under `nn.scan`.
    """
    raise NotImplementedError(f"{type(self).__name__} must define coefs(streams, index)")

  def check(self) -> None:
    """Raises ValueError, with the remedy, if the fields do not go together."""
    if self.num_streams < 1:
      raise ValueError(f"num_streams={self.num_streams} must be at least 1")

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
      The branch input `[..., v * w]` and the float32 coefficients, which go into `write`.

    Raises:
      ValueError: if the streams do not have `num_streams` streams, or by `check`.
    """
    self.check()
    if streams.ndim < 2 or streams.shape[-2] != self.num_streams:
      raise ValueError(
        f"{type(self).__name__} has num_streams={self.num_streams} and takes streams "
        f"[..., {self.num_streams}, w], but got {streams.shape}; make them with "
        f"hc_jax.expand(x, {self.num_streams})"
      )
    with jax.named_scope("hc/coefs"):
      coefs = self.coefs(streams, index)
      coefs = jax.tree.map(lambda a: checkpoint_name(a.astype(jnp.float32), "coefs"), coefs)
    self.sow("intermediates", "coefs", coefs)
    with jax.named_scope("hc/read"):
      branch_input = ops.read(streams, coefs, dtype, implementation=self.implementation)
    return checkpoint_name(branch_input, "branch_input"), coefs

  def write(self, streams: jax.Array, branch_output: jax.Array, coefs: Coefs) -> jax.Array:
    """Writes the branch output `[..., v * w]` and mixes: the next streams, in the streams' dtype.

    Raises:
      ValueError: if the branch output has another shape than the branch input.
    """
    with jax.named_scope("hc/write"):
      branch_output = checkpoint_name(branch_output, "branch_output")
      return ops.write(streams, branch_output, coefs, implementation=self.implementation)


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
