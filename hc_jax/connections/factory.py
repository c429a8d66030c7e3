"""Turns the connection that a user gives to a model into a factory of its sites' connections."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Union

from hc_jax.connections.base import Connection
from hc_jax.fields import Field, fields_of

# A model's `connection` may be a class, a functools.partial of one, or an instance. Every site gets
# a copy of the instance's fields, and parameters of its own.
ConnectionLike = Union[Callable[..., "Connection"], "Connection"]

# Fields that a model fills in with its own value where the connection leaves them None.
INHERITED = ("norm", "norm_params", "norm_eps", "partitioned")
# Fields that depend on the network: a model and its blocks fill them in where a class has them.
# num_sites: number of sites of the whole network. sites_per_block: number of sites of a block.
# site_in_block: number of the site in its block, from 0.
PLACE = ("num_sites", "sites_per_block", "site_in_block")
INHERITED += PLACE


def connection_factory(connection: ConnectionLike, **inherited: Any) -> functools.partial:
  """Returns a `functools.partial` that makes one site's connection: `factory(name=...)`.

  Args:
    connection: a class, a partial of one, or an instance. Only the fields of an instance are used.
    **inherited: the model's own values, for fields of `INHERITED` that the connection has and
      leaves None.

  Raises:
    TypeError: if the connection is none of the three.
  """
  if isinstance(connection, Connection):
    cls = type(connection)
    given = {f: getattr(connection, f) for f in _all_fields(cls)}
  elif isinstance(connection, functools.partial):
    cls, given = connection.func, dict(connection.keywords)
  else:
    cls, given = connection, {}
  if not (isinstance(cls, type) and issubclass(cls, Connection)):
    raise TypeError(
      f"connection={connection!r} is not a connection; give a class such as "
      "hc_jax.HyperConnection, functools.partial(hc_jax.HyperConnection, num_streams=2), or an "
      "instance"
    )
  fields = _all_fields(cls)
  for name, value in inherited.items():
    if name in fields and given.get(name, fields[name]) is None:
      given[name] = value
  return functools.partial(cls, **given)


def connection_fields(cls: type[Connection]) -> dict[str, Field]:
  """Returns the fields of a connection class that configs have, by name."""
  others = ("parent", "name", "partitioned", *PLACE)  # fields of Flax, and those the model sets
  return {name: found for name, found in fields_of(cls).items() if name not in others}


def _all_fields(cls: type[Connection]) -> dict[str, Any]:
  flax = ("parent", "name")
  return {f.name: f.default for f in dataclasses.fields(cls) if f.name not in flax}
