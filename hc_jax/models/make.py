"""Makes a model from the fields of a config."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from hc_jax.connections import connection_class, connection_fields, make_connection
from hc_jax.errors import UserError
from hc_jax.fields import check, under
from hc_jax.models.lm import TransformerLM


def make_model(config: Mapping[str, Any], vocab_size: int | None = None) -> TransformerLM:
  """Returns the model that the group `model` of a config describes.

  Args:
    config: the group `model`; a key that is None keeps the model's default.
    vocab_size: size of the tokenizer's vocabulary, for a config that leaves it unset.

  Raises:
    UserError: if no vocabulary size is known, if the config's is smaller than the tokenizer's, or
      if the model or a connection refuses its fields.
  """
  fields = {key: value for key, value in config.items() if value is not None}
  connection = dict(fields.pop("connection"))
  if fields.get("layers"):
    fields["layers"] = _segments(fields["layers"], connection)
  try:
    fields["connection"] = make_connection(connection.pop("name"), connection)
  except UserError as error:
    raise UserError(under("model.connection", str(error), connection)) from error
  fields.setdefault("vocab_size", vocab_size)
  if fields["vocab_size"] is None:
    raise UserError(
      "model.vocab_size is unset and there is no tokenizer to take it from; "
      "set --config.model.vocab_size"
    )
  if vocab_size is not None and vocab_size > fields["vocab_size"]:
    raise UserError(
      f"model.vocab_size={fields['vocab_size']} is smaller than the tokenizer's {vocab_size}; "
      f"leave it unset or make it at least {vocab_size}"
    )
  for key in ("dtype", "stream_dtype"):
    if key in fields:
      fields[key] = jnp.dtype(fields[key]).type
  try:
    model = TransformerLM(**fields)
    model.check()
  except ValueError as error:
    raise UserError(under("model", str(error), fields)) from error
  return model


def _segments(layers: Sequence, connection: Mapping[str, Any]) -> tuple[tuple[int, Any], ...]:
  """Returns `model.layers` with connections instead of their names and fields."""
  segments = []
  for i, segment in enumerate(layers):
    where = f"model.layers[{i}]"
    if not (isinstance(segment, Sequence) and len(segment) == 2):
      raise UserError(
        f"{where}={segment!r} is not a segment; write (count, name) or (count, fields), such as "
        "((2,'residual'),(4,{'name':'hc','num_streams':2}))"
      )
    count, given = segment
    fields = {"name": given} if isinstance(given, str) else given
    if type(count) is not int or not isinstance(fields, Mapping):
      raise UserError(f"{where}={segment!r}: a segment is (count, name) or (count, fields)")
    if not fields:
      segments.append((count, None))
      continue
    if "name" not in fields:
      raise UserError(f"{where}={segment!r} has no name; {{}} alone stands for model.connection")
    fields = dict(fields)
    name = fields.pop("name")
    try:
      check(fields, connection_fields(connection_class(name)))
      segments.append((count, make_connection(name, fields)))
    except UserError as error:
      raise UserError(f"{where}: {error}") from error
  unused = [key for key, value in connection.items() if value is not None and key != "name"]
  if unused and all(own is not None for _, own in segments):
    raise UserError(
      f"model.connection.{unused[0]} is set, but every segment of model.layers names a connection "
      "of its own; unset it, or let a segment be (count, {}), which takes model.connection"
    )
  return tuple(segments)
