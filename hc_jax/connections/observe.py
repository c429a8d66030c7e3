"""Sees, or changes, what goes through the connections of any model, without touching the model."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection

_ARGUMENTS = {"__call__": ("streams", "index"), "write": ("streams", "branch_output", "coefs")}


@dataclasses.dataclass(frozen=True)
class Call:
  """One call of a connection, while the model runs or is traced.

  Attributes:
    kind: "read" or "write".
    connection: the module that is called, bound.
    streams: `[..., n, w]`, as given.
    index: number of the site, as given to this call or, for a write, to the read before it.
    branch_output: `[..., d]` of a write; None for a read.
    coefs: maps that a write was given; None for a read.
  """

  kind: str
  connection: Connection
  streams: jax.Array
  index: Any
  branch_output: jax.Array | None = None
  coefs: Coefs | None = None


def observing(
  handler: Callable[[Call, Callable[[jax.Array], Any]], Any],
) -> contextlib.AbstractContextManager:
  """Returns a context in which `handler(call, run)` takes the place of every call of a connection.

  `run(streams)` runs the call itself, with these streams, and returns its result: `(branch_input,
  coefs)` of a read, the next streams of a write. The handler returns that result or another one.
  A connection that calls another connection counts as one call.
  """
  inside = False
  indices: dict[tuple[str, ...], Any] = {}

  def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    nonlocal inside
    connection, names = context.module, _ARGUMENTS.get(context.method_name)
    if inside or names is None or not isinstance(connection, Connection):
      return call(*args, **kwargs)
    given = dict(zip(names, args, strict=False)) | kwargs
    kind = "write" if context.method_name == "write" else "read"
    if kind == "read":
      indices[connection.path] = given.get("index")
    seen = Call(
      kind,
      connection,
      given.get("streams"),
      indices.get(connection.path),
      given.get("branch_output"),
      given.get("coefs"),
    )
    inside = True
    try:
      return handler(seen, lambda streams: call(**{**given, "streams": streams}))
    finally:
      inside = False

  return nn.intercept_methods(intercept)
