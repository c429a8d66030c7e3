"""Connections: the contract, one file per variant or family, and the table of them all."""

import functools
from collections.abc import Mapping
from typing import Any

from hc_jax.connections.altup import AltUp as AltUp
from hc_jax.connections.as_residual import AsResidual as AsResidual
from hc_jax.connections.as_residual import as_residual as as_residual
from hc_jax.connections.base import INHERITED as INHERITED
from hc_jax.connections.base import Connection as Connection
from hc_jax.connections.base import ConnectionLike as ConnectionLike
from hc_jax.connections.base import connection_factory as connection_factory
from hc_jax.connections.base import connection_fields as connection_fields
from hc_jax.connections.facts import Facts as Facts
from hc_jax.connections.frac import FracConnection as FracConnection
from hc_jax.connections.generalized import (
  GeneralizedHyperConnection as GeneralizedHyperConnection,
)
from hc_jax.connections.hyper import HyperConnection as HyperConnection
from hc_jax.connections.residual import Residual as Residual
from hc_jax.connections.wrap import Wrapped as Wrapped
from hc_jax.connections.wrap import connected as connected
from hc_jax.connections.wrap import wrap as wrap
from hc_jax.errors import UserError

# Every variant, by the name that configs use.
CONNECTIONS: dict[str, type[Connection]] = {
  "residual": Residual,
  "hc": HyperConnection,
  "frac": FracConnection,
  "ghc": GeneralizedHyperConnection,
  "altup": AltUp,
}


def make_connection(name: str, fields: Mapping[str, Any] | None = None) -> functools.partial:
  """The connection of that name, as a partial of its class.

  Args:
    name: a key of `CONNECTIONS`.
    fields: fields of the class; those that are None are left at the class's default.

  Raises:
    UserError: if the name is unknown, the class lacks a field that is set, or refuses its value.
  """
  if name not in CONNECTIONS:
    raise UserError(f"connection {name!r} is unknown; choose one of {', '.join(CONNECTIONS)}")
  cls = CONNECTIONS[name]
  given = {key: value for key, value in (fields or {}).items() if value is not None}
  known = connection_fields(cls)
  for key in given:
    if key not in known:
      raise UserError(
        f"connection {name!r} has no field {key!r}; it has {', '.join(known)}. "
        f"Leave model.connection.{key} unset, or choose a connection that has it"
      )
  try:
    cls(**given, parent=None).check()
  except ValueError as error:
    raise UserError(f"model.connection: {error}") from error
  return functools.partial(cls, **given)
