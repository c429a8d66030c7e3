"""Names of parameters, from the declarations of all variants.

Trees of parameters carry names and no classes, so that weight decay and counts go by these names.
"""

import functools
from collections.abc import Iterable, Mapping

from hc_jax.connections.base import Connection
from hc_jax.connections.declare import Param
from hc_jax.connections.factory import connection_fields


def declared_decays(classes: Iterable[type[Connection]]) -> dict[str, bool]:
  """Returns for the name of every parameter that the classes declare whether it decays."""
  return {name: param.decays for cls in classes for name, param in _declared(cls).items()}


def is_free(cls: type[Connection]) -> bool:
  """Returns whether a class has the free form, whose parameters may have any name."""
  return cls.coefs is not Connection.coefs or cls.declare is Connection.declare


def declared_names(cls: type[Connection]) -> frozenset[str]:
  """Returns the names of the parameters that a class declares."""
  return frozenset(_declared(cls))


@functools.cache
def _declared(cls: type[Connection]) -> Mapping[str, Param]:
  if cls.declare is Connection.declare:
    return {}
  # With every switch on, because a switch only ever adds names.
  switches = {name: True for name, found in connection_fields(cls).items() if found.kind is bool}
  return cls(**switches, parent=None).declare(1, 0)
