"""Sees, or changes, what goes through the connections of any model, without touching the model."""

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

  @property
  def name(self) -> str:
    """Path of the connection in its model, "a/b"; its name, or its class's, if it is the model."""
    return site_name(self.connection)


def site_name(connection: Connection) -> str:
  """Returns where a bound connection is in its model, "a/b".

  A connection that is the whole model, as each one in an NNX model is to Linen, has its own name,
  else that of its class.
  """
  return "/".join(connection.path) or connection.name or type(connection).__name__


def observing(
  handler: Callable[[Call, Callable[[jax.Array], Any]], Any],
) -> contextlib.AbstractContextManager:
  """Returns a context in which `handler(call, run)` takes the place of every call of a connection.

  `run(streams)` runs the call itself, with these streams, and returns its result: `(branch_input,
  coefs)` of a read, the next streams of a write. The handler returns that result or another one.
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
  """Returns what `see(call, out)` returns, called with numbers as the compiled program runs.

  It is for handlers of `observing`, and works in scanned, rematerialised and jitted layers of any
  framework. Calls come in the order in which their values depend on each other.

  Args:
    call: the call that is handled.
    out: its result.
    see: gets both with NumPy arrays, and returns `out` or arrays of the same shapes and dtypes. A
      write comes without its index.
  """
  index = None if call.kind == "write" or call.index is None else jnp.asarray(call.index)
  given = (call.streams, index, call.branch_output, call.coefs)

  def seen(given: Any, out: Any) -> Any:
    given, out = jax.tree.map(np.asarray, (given, out))
    return see(Call(call.kind, call.connection, *given), out)

  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), out)
  return jax.pure_callback(seen, shapes, given, out, vmap_method="sequential")
