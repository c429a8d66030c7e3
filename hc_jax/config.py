"""Configs: loading a file, overriding keys from the command line, and saying what is wrong."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from hc_jax.config_files import execute
from hc_jax.config_types import check_types, missing_keys
from hc_jax.connections import CONNECTIONS, connection_class, field_types, make_connection
from hc_jax.errors import UserError
from hc_jax.nearest import hint

ConfigDict = config_dict.ConfigDict
NAME_OVERRIDE = "--config.model.connection.name="


def connection_defaults() -> ConfigDict:
  """The group `model.connection`: name, and every field of every class, unset but typed."""
  group = ConfigDict({"name": "hc"})
  for cls in CONNECTIONS.values():
    for field, annotation in field_types(cls).items():
      if field not in group:
        group[field] = config_dict.placeholder(annotation)
  return group


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Loads a config file, a Python file with `get_config()`, and applies overrides.

  The file is the user's own program and is executed; a run's saved config is JSON and is not.

  Args:
    path: of the file.
    overrides: as on the command line, `--config.group.key=value`.

  Returns:
    The config, locked and checked.

  Raises:
    UserError: for a missing file, an unknown key, a value of the wrong type, or an impossible
      combination.
  """
  config = execute(path, "get_config")
  override(config, overrides)
  check(config)
  return config


def override(config: ConfigDict, overrides: Sequence[str]) -> None:
  """Locks a config and applies `--config.group.key=value` to it, in order; raises UserError."""
  config.lock()
  for given in overrides:
    if given.startswith(NAME_OVERRIDE):  # first: its fields are unknown keys if it is unknown
      connection_class(given.removeprefix(NAME_OVERRIDE))
  for given in overrides:
    _apply(config, given)


def assign(config: ConfigDict, values: Mapping[str, Any]) -> None:
  """Sets dotted keys of a locked config to Python values.

  Raises:
    UserError: an unknown key, or a value of another type than the key's.
  """
  for name, value in values.items():
    node, key = _locate(config, name)
    try:
      node[key] = value
    except (TypeError, ValueError) as e:
      kind = _type_name(node.get_type(key))
      raise UserError(f"config key {name!r} takes {kind}, not {value!r}") from e


def to_json(config: ConfigDict) -> dict[str, Any]:
  """The config as plain dicts, lists, numbers and strings."""
  return _plain(config.to_dict())


def from_json(values: Mapping[str, Any], defaults: ConfigDict | None = None) -> ConfigDict:
  """The config that `to_json` made these values of.

  Args:
    values: nested dicts.
    defaults: a config that has every key, for keys newer than the values.

  Raises:
    ValueError: a value is not of its key's type.
  """
  values = _tuples(dict(values))
  if defaults is None:
    check_types(values)
  config = ConfigDict(values)
  if defaults is not None:
    merged = ConfigDict(defaults.to_dict())
    with merged.ignore_type():
      merged.update(config)
    config = merged
  config.lock()
  return config


def diff(a: ConfigDict | Mapping, b: ConfigDict | Mapping) -> list[str]:
  """The dotted keys whose values differ, sorted."""
  flat_a, flat_b = dict(_flatten(_as_dict(a))), dict(_flatten(_as_dict(b)))
  missing = object()
  return sorted(
    key
    for key in {*flat_a, *flat_b}
    if _plain(flat_a.get(key, missing)) != _plain(flat_b.get(key, missing))
  )


def check(config: ConfigDict) -> None:
  """Raises UserError for combinations that no run could use; costs no compilation."""
  from hc_jax.models import make_model
  from hc_jax.models.blocks import REMOVED

  if missing := missing_keys(config.to_dict()):
    raise UserError(
      f"the config has no key {missing[0]}: it is of another version, or not a config of hc_jax"
    )
  model, train = config.model, config.train
  fields = model.connection.to_dict()
  make_connection(fields.pop("name"), fields)  # refuses what does not go together
  kv_heads = model.num_kv_heads or model.num_heads
  _divides("model.num_heads", model.num_heads, "model.d_model", model.d_model)
  _divides("model.num_kv_heads", kv_heads, "model.num_heads", model.num_heads)
  _divides("train.accumulation", train.accumulation, "train.batch_size", train.batch_size)
  _divides("train.loss_parts", train.loss_parts or 1, "data.length", config.data.length)
  width = model.d_model // model.num_heads
  if model.positions == "rotary" and width % 2:
    raise UserError(
      f"rotary positions turn pairs, but a head is model.d_model / model.num_heads = {width} wide; "
      "choose an even width or model.positions=learned"
    )
  if config.data.length > model.max_length:
    raise UserError(
      f"data.length={config.data.length} exceeds model.max_length={model.max_length}; "
      "raise model.max_length or shorten the windows"
    )
  for key in ("num_layers", "d_model", "max_length"):
    _at_least("model." + key, model[key], 1)
  for key in ("num_steps", "batch_size", "log_every", "keep", "eval_batches", "checkpoint_every"):
    _at_least("train." + key, train[key], 1)
  _at_least("data.length", config.data.length, 1)
  for key in ("learning_rate", "warmup_steps", "weight_decay", "clip_norm"):
    _at_least("optim." + key, config.optim[key], 0)
  for key in ("init_std", "output_init_scale", "norm_eps", "dropout", "expand_init_std"):
    _at_least("model." + key, model[key], 0)
  if model.dropout >= 1:
    raise UserError(f"model.dropout={model.dropout} drops everything; it must be less than 1")
  if not model.causal:
    raise UserError(
      "model.causal=False cannot be trained on the next token: every position would see the one it "
      "is to predict, and the loss would say nothing. Leave it True; in code, "
      "hc_jax.models.TransformerLM(causal=False) is an encoder"
    )
  if model.block in REMOVED:
    raise UserError(f"model.block={model.block!r} {REMOVED[model.block]}")
  for key, known in _choices().items():
    value = config
    for part in key.split("."):
      value = value[part]
    if value is not None and value not in known:
      near = hint(str(value), known)
      raise UserError(f"{key}={value!r} is unknown; choose one of {', '.join(known)}{near}")
  make_model(model, vocab_size=None if model.vocab_size else 1)  # refuses the rest
  _check_remat(model)


def _check_remat(model: ConfigDict) -> None:
  """A choice of words, or one with a number, which divides the layers."""
  from hc_jax.models import remat

  try:
    for count in [count for count, _ in model.layers] or [model.num_layers]:
      remat.check_groups(model.remat, count)
  except ValueError as error:
    raise UserError(f"model.{error}{hint(model.remat, remat.REMAT)}") from error


def _choices() -> dict[str, tuple[str, ...]]:
  """The keys that take one of a few words. (Imported late: configs are read before models.)"""
  from hc_jax.connections import BIAS_INITS, FORMS, ends
  from hc_jax.models import blocks, layers, lm
  from hc_jax.ops import NORMS, SINKHORN_GRADIENTS

  dtypes = ("float32", "bfloat16", "float16")
  return {
    "model.activation": layers.ACTIVATIONS,
    "model.norm": NORMS,
    "model.norm_position": blocks.NORM_POSITIONS,
    "model.block": blocks.BLOCKS,
    "model.expand": ends.EXPAND,
    "model.reduce": ends.REDUCE,
    "model.positions": lm.POSITIONS,
    "model.dtype": dtypes,
    "model.stream_dtype": dtypes,
    "model.connection.norm": NORMS,
    "model.connection.bias_init": BIAS_INITS,
    "model.connection.form": FORMS,
    "model.connection.sinkhorn_gradient": SINKHORN_GRADIENTS,
  }


def _apply(config: ConfigDict, override: str) -> None:
  name, sep, text = override.removeprefix("--config.").partition("=")
  if not override.startswith("--config.") or not sep:
    raise UserError(f"cannot read {override!r}; write --config.group.key=value")
  node, key = _locate(config, name)
  kind = node.get_type(key)
  unset = text.lower() == "none" and kind is not tuple
  if unset and not _may_be_none(node, key):
    if kind is not str:
      raise UserError(f"config key {name!r} takes {_type_name(kind)}; it cannot be unset")
    unset = False  # a word like any other: model.remat=none
  try:
    node[key] = None if unset else _parse(text, kind)
  except (ValueError, SyntaxError, TypeError) as e:
    raise UserError(f"config key {name!r} takes {_type_name(kind)}, not {text!r}") from e


def _locate(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
  """The group that a dotted key lies in, and its last part."""
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


def _may_be_none(node: ConfigDict, key: str) -> bool:
  """Whether base.py made the key as a placeholder."""
  fields = dict(node.items(preserve_field_references=True))
  return isinstance(fields[key], config_dict.FieldReference)


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
    return (value,) if isinstance(value, str) else tuple(value)  # ('a') is no tuple in Python
  return kind(ast.literal_eval(text))


def _bool(text: str) -> bool:
  if text.lower() not in ("true", "false", "1", "0"):
    raise ValueError(text)
  return text.lower() in ("true", "1")


def _type_name(kind: type) -> str:
  words = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list such as a,b or ('a','b')",
  }
  return words.get(kind, kind.__name__)


def _divides(a_name: str, a: int, b_name: str, b: int) -> None:
  if a < 1 or b % a:
    raise UserError(f"{b_name}={b} is not divisible by {a_name}={a}")


def _at_least(name: str, value: float, least: float) -> None:
  if value < least:
    raise UserError(f"{name}={value} must be at least {least}")


def _flatten(node: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
  for key, value in node.items():
    if isinstance(value, Mapping):
      yield from _flatten(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def _as_dict(config: ConfigDict | Mapping) -> Mapping:
  return config.to_dict() if isinstance(config, ConfigDict) else config


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _plain(v) for key, v in value.items()}
  return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _tuples(v) for key, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
