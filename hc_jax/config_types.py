"""The keys of a config and the types of their values: what a stranger's config.json must have.

`configs/base.py` has the same keys with their defaults; a test compares the two.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from hc_jax.connections import CONNECTIONS, field_types

_BY_TYPE: dict[type, str] = {
  int: """seed data.length data.workers mesh.data mesh.fsdp mesh.tensor model.d_ff model.d_model
    model.max_length model.num_heads model.num_kv_heads model.num_layers model.vocab_size
    optim.warmup_steps train.accumulation train.batch_size train.checkpoint_every
    train.eval_batches train.eval_every train.keep train.log_every train.loss_parts
    train.num_steps train.telemetry_every""",
  float: """data.val_fraction model.dropout model.expand_init_std model.final_norm_eps
    model.init_std model.norm_eps model.output_init_scale model.rotary_theta optim.b1 optim.b2
    optim.clip_norm optim.end_fraction optim.eps optim.learning_rate optim.weight_decay""",
  bool: """data.document_mask model.attention_views model.causal model.norm_params model.qk_norm
    model.scan model.tie_embeddings train.debug_nans train.deterministic""",
  str: """data.dir data.field data.name data.tokenizer mesh.preset model.activation model.block
    model.dtype model.expand model.norm model.norm_position model.positions model.reduce
    model.remat model.stream_dtype optim.name optim.schedule train.compilation_cache
    train.mirror train.profile model.connection.name""",
  tuple: "data.files model.layers train.trackers",
}
KEYS = {key: kind for kind, keys in _BY_TYPE.items() for key in keys.split()}
UNSET = ("model.d_ff", "model.num_kv_heads", "model.vocab_size", "model.final_norm_eps")
UNSET += ("model.stream_dtype", "model.expand", "model.reduce")
# Keys that older runs do not have, with the value that they had before it was a key.
ADDED: dict[str, Any] = {
  "model.block": "sequential",
  "model.layers": (),
  "train.mirror": "",
  "train.trackers": (),
}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_LARGEST = 1 << 63


def check_types(values: Mapping[str, Any]) -> None:
  """Checks that the values of a config have the types of their keys; adds the keys in `ADDED`.

  Keys that are missing are not looked for, and those that are not in the table may have any value.

  Args:
    values: nested dicts, with tuples for lists.

  Raises:
    ValueError: a value has another type, or a group is not one.
  """
  for key, kind in KEYS.items():
    group, name = _group_of(values, key)
    if key in ADDED and group is not None:
      group.setdefault(name, ADDED[key])
    if group is not None and name in group:
      _check(key, group[name], kind, key in UNSET)
  for group, name in (("data", "files"), ("train", "trackers")):
    for text in values.get(group, {}).get(name, ()):
      _check(f"{group}.{name}[i]", text, str, False)
  fields, _ = _group_of(values, "model.connection.name")
  for cls in CONNECTIONS.values() if fields is not None else ():
    for name, kind in field_types(cls).items():
      _check(f"model.connection.{name}", fields.setdefault(name, None), kind, True)


def missing_keys(values: Mapping[str, Any], keys: Iterable[str] = KEYS) -> list[str]:
  """Returns those of `keys`, dotted, that a config of nested groups does not have."""
  found = []
  for key in keys:
    group: Any = values
    for part in key.split("."):
      group = group.get(part, found) if isinstance(group, Mapping) else found
    if group is found:
      found.append(key)
  return found


def _group_of(values: Any, key: str) -> tuple[Any, str]:
  """Returns the innermost group of a dotted key, None if there is none, and its last part."""
  *groups, name = key.split(".")
  for part in groups:
    if part not in values:
      return None, name
    values = values[part]
    if not isinstance(values, dict):
      raise ValueError(f"{part} is not a group")
  return values, name


def _check(key: str, value: Any, kind: type, may_be_unset: bool) -> None:
  if value is None and may_be_unset:
    return
  fits = type(value) in (int, float) if kind is float else type(value) is kind
  if not fits or (type(value) is int and abs(value) >= _LARGEST):
    raise ValueError(f"{key}={str(value)[:60]!r} is not {_WORDS.get(kind, 'a list')}")
