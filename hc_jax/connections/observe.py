"""Observes or changes the streams at the connections of any model, without a change to its code."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection

_ARGUMENTS = {"__call__": ("streams", "index"), "write": ("streams", "branch_output", "coefs")}


@dataclasses.dataclass(frozen=True)
class Call:
  """One call of a connection, while the model runs or is traced.

  Attributes:
    kind: "read" or "write".
    connection: the bound module that is called.
    streams: streams that the call was given, `[..., n, w]`.
    index: number of the site, as given to this call; for a write, to the read before it.
    branch_output: branch output of a write, `[..., d]`; None for a read.
    coefs: maps of a write; None for a read.
  """

  kind: str
  connection: Connection
  streams: jax.Array
  index: Any
  branch_output: jax.Array | None = None
  coefs: Coefs | None = None

  @property
  def name(self) -> str:
    """Path of the connection in its model; see `site_name`."""
    return site_name(self.connection)


def site_name(connection: Connection) -> str:
  """Returns the path of a bound connection in its model, "a/b".

  For a connection without a parent it is the connection's own name, else the name of its class.
  Connections in an NNX model have no Linen parent.
  """
  return "/".join(connection.path) or connection.name or type(connection).__name__


def observing(
  handler: Callable[[Call, Callable[[jax.Array], Any]], Any],
) -> contextlib.AbstractContextManager:
  """Returns a context in which `handler(call, run)` replaces every call of a connection.

  Args:
    handler: gets the `Call` and a function. `run(streams)` runs the original call on these streams
      and returns its result: `(branch_input, coefs)` of a read, the next streams of a write. The
      handler returns that result or another one of the same kind.

  A connection that calls another connection counts as one call.
  """
  inside = False
  indices: dict[str, Any] = {}

  def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    nonlocal inside
    connection, names = context.module, _ARGUMENTS.get(context.method_name)
    if inside or names is None or not isinstance(connection, Connection):
      return call(*args, **kwargs)
    given = dict(zip(names, args, strict=False)) | kwargs
    kind = "write" if context.method_name == "write" else "read"
    name = site_name(connection)
    if kind == "read":
      indices[name] = given.get("index")
    seen = Call(
      kind,
      connection,
      given.get("streams"),
      indices.get(name),
      given.get("branch_output"),
      given.get("coefs"),
    )
    inside = True
    try:
      return handler(seen, lambda streams: call(**{**given, "streams": streams}))
    finally:
      inside = False

  return nn.intercept_methods(intercept)


def tap(call: Call, out: Any, see: Callable[[Call, Any], Any]) -> Any:
  """Calls `see(call, out)` with concrete arrays while the compiled program runs.

  It is for handlers of `observing`, and works in scanned, rematerialised and jitted layers of any
  framework. Calls come in the order in which their values depend on each other.

  Args:
    call: the call that is handled.
    out: the result of the call.
    see: gets both with NumPy arrays, and returns `out` or arrays of the same shapes and dtypes. The
      index of a write is None.

  Returns:
    The arrays that `see` returns.
  """
  index = None if call.kind == "write" or call.index is None else jnp.asarray(call.index)
  given = (call.streams, index, call.branch_output, call.coefs)

  def seen(given: Any, out: Any) -> Any:
    given, out = jax.tree.map(np.asarray, (given, out))
    return see(Call(call.kind, call.connection, *given), out)

  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), out)
  return jax.pure_callback(seen, shapes, given, out, vmap_method="sequential")
