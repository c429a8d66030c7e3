"""The check of a site's place: what it must know about its network, and its number there."""

import numbers
from typing import Any

import jax


def is_count(value: Any) -> bool:
  """Returns whether a value is a whole number of at least 1."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def check_place(connection: Any, index: Any) -> None:
  """Checks that a site knows what it needs about its network, and that the network has its index.

  Args:
    connection: a `hc_jax.Connection`.
    index: number of the site; a traced number is not checked.

  Raises:
    ValueError: if a field named in `connection.needs` is None, or the index is not below
      `connection.num_sites`.
  """
  name = type(connection).__name__
  for field in connection.needs:
    if getattr(connection, field) is None:
      raise ValueError(
        f"{name} has {field}=None but needs it; hc_jax.models.TransformerLM fills it in, "
        f"elsewhere give it: {name}({field}=8) for a network of eight sites"
      )
  sites = getattr(connection, "num_sites", None)
  if sites is not None and not isinstance(index, jax.core.Tracer) and not 0 <= index < sites:
    raise ValueError(
      f"{name} has num_sites={sites}, but a site has index={index}; count sites from 0 to "
      f"{sites - 1}, or give the num_sites of the whole network"
    )
