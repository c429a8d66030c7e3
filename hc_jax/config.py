"""Configs: loading a file, overriding keys from the command line, and checking the values."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from hc_jax.config_files import execute
from hc_jax.config_keys import add_missing, keys, missing_keys, wrong
from hc_jax.config_keys import connection_defaults as connection_defaults
from hc_jax.connections import connection_class
from hc_jax.errors import UserError
from hc_jax.fields import Field, under
from hc_jax.nearest import hint

ConfigDict = config_dict.ConfigDict
NAME_OVERRIDE = "--config.model.connection.name="


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Loads a config file, a Python file with `get_config()`, and applies overrides.

  The file is a program of the user and is executed. A run's saved config is JSON, which is only
  read.

  Args:
    path: path of the file, or the name of a config of hc_jax.
    overrides: overrides as on the command line, `--config.group.key=value`.

  Returns:
    The config, locked and checked.

  Raises:
    UserError: if the file is missing, a key is unknown, or a value has the wrong type; in the cases
      of `check`.
  """
  config = execute(path, "get_config")
  override(config, overrides)
  check(config)
  return config


def override(config: ConfigDict, overrides: Sequence[str]) -> None:
  """Locks a config and applies `--config.group.key=value` to it, in order; raises UserError."""
  config.lock()
  for given in overrides:
    # First, because an unknown connection would make its fields look like unknown keys.
    if given.startswith(NAME_OVERRIDE):
      connection_class(given.removeprefix(NAME_OVERRIDE))
  for given in overrides:
    _apply(config, given)


def assign(config: ConfigDict, values: Mapping[str, Any]) -> None:
  """Sets dotted keys of a locked config to Python values.

  Raises:
    UserError: if a key is unknown, or a value has another type than the key.
  """
  for name, value in values.items():
    node, key = _locate(config, name)
    try:
      node[key] = value
    except (TypeError, ValueError) as e:
      takes = _takes(node, name).takes
      raise UserError(f"config key {name!r} takes {takes}, not {value!r}") from e


def to_json(config: ConfigDict) -> dict[str, Any]:
  """Returns the config as plain dicts, lists, numbers and strings."""
  return plain(config.to_dict())


def from_json(values: Mapping[str, Any], defaults: ConfigDict | None = None) -> ConfigDict:
  """Returns the config from which `to_json` made these values.

  Args:
    values: nested dicts.
    defaults: a config that has every key, for keys newer than the values.

  Raises:
    ValueError: if a key does not take its value.
  """
  values = _tuples(dict(values))
  if defaults is None:
    add_missing(values)
    if problem := wrong(values):
      raise ValueError(problem)
  config = ConfigDict(values)
  if defaults is not None:
    merged = ConfigDict(defaults.to_dict())
    with merged.ignore_type():
      merged.update(config)
    config = merged
  config.lock()
  return config


def diff(a: ConfigDict | Mapping, b: ConfigDict | Mapping) -> list[str]:
  """Returns the dotted keys, sorted, whose values differ or that only one of the two has."""
  flat_a, flat_b = dict(_flatten(_as_dict(a))), dict(_flatten(_as_dict(b)))
  missing = object()
  return sorted(
    key
    for key in {*flat_a, *flat_b}
    if plain(flat_a.get(key, missing)) != plain(flat_b.get(key, missing))
  )


def check(config: ConfigDict) -> None:
  """Raises UserError for values that keys do not take, and for groups that do not fit each other.

  `hc_jax.models.make_model` checks whether the fields of the model fit each other.
  """
  from hc_jax.step.optim import make_optimizer

  values = config.to_dict()
  if missing := missing_keys(values):
    raise UserError(
      f"the config has no key {missing[0]}: it is of another version, or not a config of hc_jax"
    )
  if problem := wrong(values):
    raise UserError(problem)
  model, train = config.model, config.train
  _divides("train.accumulation", train.accumulation, "train.batch_size", train.batch_size)
  _divides("train.loss_parts", train.loss_parts or 1, "data.length", config.data.length)
  if config.data.length > model.max_length:
    raise UserError(
      f"data.length={config.data.length} exceeds model.max_length={model.max_length}; "
      "raise model.max_length or shorten the windows"
    )
  if not model.causal:
    raise UserError(
      "model.causal=False cannot be trained on the next token: every position would see the one it "
      "is to predict, and the loss would say nothing. Leave it True; in code, "
      "hc_jax.models.TransformerLM(causal=False) is an encoder"
    )
  try:
    make_optimizer(config.optim, train.num_steps)
  except UserError as error:
    raise UserError(under("optim", str(error), config.optim)) from error


def _apply(config: ConfigDict, override: str) -> None:
  name, sep, text = override.removeprefix("--config.").partition("=")
  if not override.startswith("--config.") or not sep:
    raise UserError(f"cannot read {override!r}; write --config.group.key=value")
  node, key = _locate(config, name)
  takes = _takes(node, name)
  unset = text.lower() == "none" and takes.kind is not tuple
  if unset and not takes.unset:
    if takes.kind is not str:
      raise UserError(f"config key {name!r} takes {takes.takes}; it cannot be unset")
    unset = False  # a word like any other: model.remat=none
  try:
    node[key] = None if unset else text if text in takes.words else _parse(text, takes.kind)
  except (ValueError, SyntaxError, TypeError) as e:
    raise UserError(f"config key {name!r} takes {takes.takes}, not {text!r}") from e


def _takes(node: ConfigDict, name: str) -> Field:
  """Returns the declaration of a dotted key; for an undeclared key, one with its current type."""
  kind = node.get_type(name.rpartition(".")[2])
  return keys().get(name) or Field(name=name, kind=kind, unset=True)


def _locate(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
  """Returns the group that holds a dotted key, and the last part of the key."""
  *groups, key = name.split(".")
  node = config
  for depth, part in enumerate([*groups, key]):
    if not isinstance(node, ConfigDict) or part not in node:
      keys = [k for k, _ in _flatten(config.to_dict())]
      prefix = ".".join(name.split(".")[: depth + 1])
      raise UserError(f"unknown config key {prefix!r}{hint(name, keys, '.')}")
    if depth < len(groups):
      node = node[part]
  if isinstance(node[key], ConfigDict):
    raise UserError(f"config key {name!r} is a group; set one of {', '.join(node[key])} in it")
  return node, key


def _parse(text: str, kind: type) -> Any:
  if kind is str:
    return text
  if kind is bool:
    return _bool(text)
  if kind is int:
    return int(text.replace("_", ""))
  if kind is float:
    return float(text)
  if kind is tuple:
    if not text.startswith(("(", "[")):
      return tuple(filter(None, text.split(",")))
    value = ast.literal_eval(text)
    return (value,) if isinstance(value, str) else tuple(value)  # Python reads ('a') as text
  return kind(ast.literal_eval(text))


def _bool(text: str) -> bool:
  if text.lower() not in ("true", "false", "1", "0"):
    raise ValueError(text)
  return text.lower() in ("true", "1")


def _divides(a_name: str, a: int, b_name: str, b: int) -> None:
  if a < 1 or b % a:
    raise UserError(f"{b_name}={b} is not divisible by {a_name}={a}")


def _flatten(node: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
  for key, value in node.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def _as_dict(config: ConfigDict | Mapping) -> Mapping:
  return config.to_dict() if isinstance(config, ConfigDict) else config


def plain(value: Any) -> Any:
  """Returns nested values with mappings as dicts and tuples as lists; all others as they are."""
  if isinstance(value, Mapping):
    return {key: plain(v) for key, v in value.items()}
  return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _tuples(v) for key, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
