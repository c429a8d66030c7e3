"""The folder of a sweep. Shared files have one writer at a time.

sweep.json          the sweep and the command that started it
arms/<arm>/         result.json of a finished arm; checkpoints or runs before that
results.jsonl, report.md, report.html, *.png
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from hc_jax import config as config_lib
from hc_jax import durable, exclusive
from hc_jax.ablate.running import provenance
from hc_jax.ablate.running.record_types import check_fields, check_sweep
from hc_jax.ablate.sweep import Sweep
from hc_jax.config_keys import missing_keys
from hc_jax.errors import UserError
from hc_jax.runs.workdir import read_format, reading

FILE, LOCK = "sweep.json", "sweep.lock"
FORMAT = "hc_jax sweep 1"
# Keys that may change between commands, because they do not change the results of a run.
MAY_CHANGE = (
  "base.train.checkpoint_every",
  "base.train.keep",
  "base.train.compilation_cache",
  "base.data.workers",
  "base.data.dir",
  "title",
)


# Keys of the base that the report needs. Other keys may be missing, if they are newer than the
# folder.
REPORTED = (
  *("data.length", "data.name", "data.tokenizer", "model.d_model", "model.num_heads"),
  *("model.num_layers", "model.dtype", "model.stream_dtype", "optim.learning_rate", "optim.name"),
  *("optim.schedule", "optim.warmup_steps", "optim.weight_decay", "train.batch_size"),
  *("train.num_steps", "train.eval_batches", "train.log_every"),
)


def to_json(sweep: Sweep) -> dict[str, Any]:
  """Returns a sweep as JSON values."""
  return {
    "title": sweep.title,
    "base": config_lib.to_json(sweep.base),
    "arms": json.loads(json.dumps({name: dict(delta) for name, delta in sweep.arms.items()})),
    "seeds": [int(seed) for seed in sweep.seeds],
    "baseline": sweep.baseline_arm,
    "learning_rates": [float(rate) for rate in sweep.learning_rates],
    "one_by_one": sweep.one_by_one,
  }


def from_json(values: Mapping[str, Any]) -> Sweep:
  """Returns the sweep from the values that `to_json` returned."""
  return Sweep(**{**values, "base": config_lib.from_json(values["base"])})


def open_sweep(out: str, sweep: Sweep) -> None:
  """Writes sweep.json into a new folder, or checks that an existing folder has the same sweep.

  Raises:
    UserError: if `out` cannot be written, holds files but no sweep, or holds another sweep.
  """
  path = os.path.join(out, FILE)
  if os.path.isdir(out) and not os.path.exists(path) and set(os.listdir(out)) - {LOCK}:
    raise UserError(
      f"{out} is not empty and holds no sweep (there is no {FILE}); choose another `out`"
    )
  try:
    os.makedirs(out, exist_ok=True)
    with exclusive.locked(out, LOCK):
      if os.path.exists(path):
        _check_same(out, sweep)
        return
      values = {
        "format": FORMAT,
        "sweep": to_json(sweep),
        "command": provenance.command(),
      }
      durable.write_atomically(path, json.dumps(values, indent=1) + "\n")
  except OSError as error:
    raise UserError(f"{out} cannot be written: {error.strerror}; choose another `out`") from error


def read_sweep(out: str) -> tuple[Sweep, str]:
  """Returns the sweep in the folder `out`, and the command that started it.

  Raises:
    UserError: if `out` holds no sweep that can be read.
  """
  path = os.path.join(out, FILE)
  with reading(path, f"{out} holds no sweep", "a sweep"):
    values = read_format(out, FILE, FORMAT)
    check_sweep(values["sweep"])
    check_fields("sweep", values, {"command": (str,)})
    sweep = from_json(values["sweep"])
    sweep.check_arms()
    if missing := missing_keys(sweep.base.to_dict(), REPORTED):
      raise ValueError(f"its base has no key {missing[0]}")
  return sweep, values["command"]


def _check_same(out: str, sweep: Sweep) -> None:
  there, _ = read_sweep(out)
  # A key that is newer than the folder had no effect then, which its default stands for.
  base = config_lib.from_json(config_lib.to_json(there.base), sweep.base)
  there = dataclasses.replace(there, base=base)
  before, now = to_json(there), to_json(sweep)
  differing = [key for key in config_lib.diff(before, now) if key not in MAY_CHANGE]
  if differing:
    lines = [f"{key} {_value(before, key)} -> {_value(now, key)}" for key in differing]
    more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
    raise UserError(
      f"{out} holds another sweep (there -> here): {'; '.join(lines[:8])}{more}; choose another "
      "`out`, or pass the sweep of that folder"
    )


def _value(values: Any, key: str) -> str:
  """Returns `repr` of the value at a dotted key, or "nothing"; keys of an arm may contain dots."""
  while key:
    if not isinstance(values, Mapping):
      return "nothing"
    part = next(
      (name for name in sorted(values, key=len, reverse=True) if f"{key}.".startswith(f"{name}.")),
      None,
    )
    if part is None:
      return "nothing"
    values, key = values[part], key[len(part) + 1 :]
  return repr(values)
