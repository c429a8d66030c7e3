"""The connections of a model's layers: one for all, or a list of segments."""

import functools
from collections.abc import Sequence
from typing import Any

from hc_jax.connections import Connection, ConnectionLike, connection_factory

# Pairs (number of layers, connection), the lowest layers first; None is the model's connection.
Layers = Sequence[tuple[int, ConnectionLike | None]]


def count_layers(layers: Layers) -> int:
  """Returns the sum of the counts.

  Raises:
    ValueError: if `layers` is not a sequence of (count, connection), or a count is below 1.
  """
  total = 0
  for segment in layers:
    if not (isinstance(segment, Sequence) and len(segment) == 2 and isinstance(segment[0], int)):
      raise ValueError(
        f"layers holds {segment!r}; write (count, connection), such as "
        "layers=((2, hc.Residual), (4, hc.HyperConnection))"
      )
    if segment[0] < 1:
      raise ValueError(f"layers has a segment of {segment[0]} layers; each has at least 1")
    total += segment[0]
  return total


def connections_of(
  layers: Layers, num_layers: int | None, connection: ConnectionLike, **inherited: Any
) -> list[tuple[int, functools.partial]]:
  """Returns each segment's number of layers and connection; one segment if `layers` is empty.

  Args:
    layers: segments, or an empty sequence.
    num_layers: number of layers of the model.
    connection: connection of the model.
    **inherited: the model's own values, as in `connection_factory`.

  Raises:
    ValueError: if num_layers is missing, or the counts do not add up to it.
  """
  if not layers:
    if num_layers is None or num_layers < 1:
      raise ValueError(f"num_layers={num_layers} must be at least 1")
    return [(num_layers, connection_factory(connection, **inherited))]
  total = count_layers(layers)
  if num_layers not in (None, total):
    counts = " + ".join(str(count) for count, _ in layers)
    raise ValueError(
      f"layers has {counts} = {total} layers, but num_layers={num_layers}; set num_layers={total}"
    )
  return [
    (count, connection_factory(connection if own is None else own, **inherited))
    for count, own in layers
  ]


def check_segments(connections: Sequence[Connection]) -> None:
  """Raises ValueError if segments have connections that cannot share a network.

  Between segments the streams are reduced to one state and copied. Streams with different roles
  would lose them there, and so would the read that a site makes for the next one.
  """
  for connection in connections if len(connections) > 1 else ():
    if connection.has_roles:
      raise ValueError(
        f"layers has {len(connections)} segments, but the streams of {type(connection).__name__} "
        "have different roles and cannot be handed on; leave layers unset and give it as the "
        "connection of all"
      )

  for connection in connections[:-1]:
    if connection.carries_read:
      raise ValueError(
        f"layers has a segment after {type(connection).__name__}, which would not use the read "
        "that its last site makes; put it into the last segment"
      )


def check_connection(connection: functools.partial, d_model: int) -> None:
  """Raises ValueError if a model of that width cannot have the connection."""
  module = connection(parent=None)
  module.check()
  if d_model % module.fractions:
    divisors = [m for m in range(2, min(d_model, 16) + 1) if d_model % m == 0]
    raise ValueError(
      f"{type(module).__name__}: d_model={d_model} cannot be cut into "
      f"fractions={module.fractions}: {d_model} / {module.fractions} = "
      f"{d_model / module.fractions:g}; choose fractions that divide d_model"
      + (f" ({', '.join(map(str, divisors))})" if divisors else "")
    )
