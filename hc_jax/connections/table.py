"""Names of parameters, from the declarations of all variants: for trees that have no classes."""

import functools
from collections.abc import Iterable

from hc_jax.connections.base import Connection
from hc_jax.connections.fields import field_types


def declared_decays(classes: Iterable[type[Connection]]) -> dict[str, bool]:
  """Returns whether weight decay applies, by the name of every parameter that a class declares."""
  return functools.reduce(lambda found, cls: found | _decays(cls), classes, {})


@functools.cache
def _decays(cls: type[Connection]) -> dict[str, bool]:
  if cls.declare is Connection.declare:
    return {}
  # A switch that is on adds names and takes none away.
  switches = {name: True for name, kind in field_types(cls).items() if kind is bool}
  return {name: param.decays for name, param in cls(**switches).declare(1, 0).items()}
