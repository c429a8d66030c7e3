"""The keys of a config, collected from the classes that declare them: what each takes and means."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import config_dict

from hc_jax.connections import CONNECTIONS, connection_fields
from hc_jax.fields import REQUIRED, Field, problems

CONNECTION = "model.connection"
# Keys that older runs do not have, with the value that they had before it was a key.
ADDED: dict[str, Any] = {
  "model.block": "sequential",
  "model.layers": (),
  "optim.groups": (),
  "train.mirror": "",
  "train.trackers": (),
}


def groups() -> dict[str, Mapping[str, Field]]:
  """Returns what the keys of every group take, by its dotted name; "" has those of no group."""
  from hc_jax.data.settings import DataSettings  # late: a config may be read before these
  from hc_jax.fields import fields_of
  from hc_jax.models import TransformerLM
  from hc_jax.sharding import MeshSettings
  from hc_jax.step.optim import OptimSettings
  from hc_jax.step.state import SEED
  from hc_jax.train.settings import LanguageSettings

  model = dict(fields_of(TransformerLM))
  for name in ("parent", "name", "connection"):
    del model[name]
  return {
    "": {"seed": SEED},
    "model": {name: _in_words(found) for name, found in model.items()},
    CONNECTION: _connection(),
    "data": fields_of(DataSettings),
    "optim": fields_of(OptimSettings),
    "train": fields_of(LanguageSettings),
    "mesh": fields_of(MeshSettings),
  }


def keys() -> dict[str, Field]:
  """Returns what every key takes, by its dotted name."""
  return {
    f"{group}.{name}".lstrip("."): found
    for group, declared in groups().items()
    for name, found in declared.items()
  }


def arguments() -> dict[str, str]:
  """Returns the key that gives each argument of the rooms below its value; see `errors.named`."""
  others = {"data_dir": "data.dir", "num_batches": "train.eval_batches"}
  for key in keys():
    if not key.startswith(CONNECTION):
      others.setdefault(key.rpartition(".")[2], key)  # `name` is the text's
  return others


def declared_config() -> config_dict.ConfigDict:
  """Returns a config of all keys with the defaults of their classes; what has none is unset."""
  config = config_dict.ConfigDict()
  for group, declared in groups().items():
    node = config
    for part in filter(None, group.split(".")):
      if part not in node:
        node[part] = config_dict.ConfigDict()
      node = node[part]
    for name, found in declared.items():
      node[name] = _entry(found)
  return config


def connection_defaults() -> config_dict.ConfigDict:
  """Returns the group `model.connection`: name, and every field of every class, unset."""
  return config_dict.ConfigDict({name: _entry(found) for name, found in _connection().items()})


def connection_keys(name: str) -> dict[str, Field]:
  """Returns what the keys of `model.connection` take for the connection of that name."""
  own = connection_fields(CONNECTIONS[name])
  return _connection() | {key: _optional(found) for key, found in own.items()}


def wrong(values: Mapping[str, Any]) -> str | None:
  """Returns the problem of the first value that its key does not take, or None.

  Missing keys are not a problem, and keys without a declaration may have any value.

  Args:
    values: nested dicts, with tuples for lists.

  Raises:
    ValueError: if a value stands where a group belongs.
  """
  for group, declared in groups().items():
    found = _group(values, group)
    if group == CONNECTION and found.get("name") in CONNECTIONS:
      declared = connection_keys(found["name"])
    for problem in problems(found, declared):
      return f"{group}.{problem}".lstrip(".")
  return None


def add_missing(values: dict[str, Any]) -> None:
  """Adds to the config of an older run the keys that came after it, as they were before."""
  for key, value in ADDED.items():
    group, _, name = key.rpartition(".")
    if group in values:
      _group(values, group).setdefault(name, value)
  if "model" in values and "connection" in values["model"]:
    fields = _group(values, CONNECTION)
    for name in _connection():
      if name != "name":
        fields.setdefault(name, None)
    if fields["implementation"] == "autodiff":  # the word before there were backends
      fields |= {"implementation": "auto", "derivatives": "autodiff"}


def missing_keys(values: Mapping[str, Any], wanted: Iterable[str] | None = None) -> list[str]:
  """Returns the dotted keys that a config of nested groups does not have.

  Args:
    values: nested dicts.
    wanted: the keys to look for; by default all except the fields of connections.
  """
  if wanted is None:
    fields = {f"{CONNECTION}.{name}" for name in _connection() if name != "name"}
    wanted = [key for key in keys() if key not in fields]
  found = []
  for key in wanted:
    group: Any = values
    for part in key.split("."):
      group = group.get(part, found) if isinstance(group, Mapping) else found
    if group is found:
      found.append(key)
  return found


def _connection() -> dict[str, Field]:
  """Returns the keys of `model.connection`: all fields of all classes, which may be unset."""
  merged: dict[str, Field] = {}
  for cls in CONNECTIONS.values():
    for name, found in connection_fields(cls).items():
      merged.setdefault(name, _optional(dataclasses.replace(found, default=None)))
  name = Field(name="name", kind=str, default="hc", meaning="the variant")
  return {"name": name, **merged}


def _optional(found: Field) -> Field:
  return dataclasses.replace(found, unset=True)


def _in_words(found: Field) -> Field:
  """Returns a field whose default is a type of JAX with the name of the type instead."""
  if found.kind is str and isinstance(found.default, type) and found.default is not REQUIRED:
    return dataclasses.replace(found, default=np.dtype(found.default).name)
  return found


def _entry(found: Field) -> Any:
  """Returns what a config holds for a key: a value, or a typed place for one that may be unset."""
  default = None if found.default is REQUIRED else found.default
  if found.words:
    return config_dict.FieldReference(default, field_type=object)
  if found.unset or default is None:
    return config_dict.FieldReference(default, field_type=found.kind)
  return default


def _group(values: Mapping[str, Any], group: str) -> Any:
  """Returns a group by its dotted name; an empty one where it is missing."""
  for part in filter(None, group.split(".")):
    values = values.get(part, {})
    if not isinstance(values, dict):
      raise ValueError(f"{part} is not a group")
  return values
