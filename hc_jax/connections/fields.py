"""The fields of a connection class, as configs see them."""

import inspect
from typing import Any

from hc_jax.connections.base import Connection
from hc_jax.connections.factory import connection_fields


def field_types(cls: type[Connection]) -> dict[str, type]:
  """The fields of a connection class with the type that a config holds for each."""
  types = {}
  for field, default in connection_fields(cls).items():
    annotation = _annotation(cls, field)
    names = [t for t in getattr(annotation, "__args__", (annotation,)) if t is not type(None)]
    types[field] = names[0] if isinstance(names[0], type) else type(default)
  return types


def _annotation(cls: type, field: str) -> Any:
  for base in cls.__mro__:
    if field in inspect.get_annotations(base):
      try:
        return inspect.get_annotations(base, eval_str=True)[field]
      except NameError:  # a name that only type checkers import
        return Any
  return Any
