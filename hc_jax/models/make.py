"""From the config's fields to a module: the one place where a model meets a config."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from hc_jax.connections import make_connection
from hc_jax.errors import UserError
from hc_jax.models.lm import TransformerLM


def make_model(config: Mapping[str, Any], vocab_size: int | None = None) -> TransformerLM:
  """The model that `config.model` describes.

  Args:
    config: the group `model` of a config; keys that are None are left at the model's default.
    vocab_size: the tokenizer's, for a config that leaves it unset.

  Raises:
    UserError: if no vocabulary size is known, or the tokenizer's does not fit the config's.
  """
  fields = {key: value for key, value in config.items() if value is not None}
  connection = dict(fields.pop("connection"))
  fields["connection"] = make_connection(connection.pop("name"), connection)
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
  return TransformerLM(**fields)
