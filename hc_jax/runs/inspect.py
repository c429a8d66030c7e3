"""Report on a run's folder: checkpoints, card and parameters of the newest one, and metrics.

The report reads no arrays, and needs neither the run's devices nor its data.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from hc_jax import folders
from hc_jax.errors import UserError
from hc_jax.param_table import param_lines
from hc_jax.runs import checkpoint, manifest, restore
from hc_jax.runs.metrics import read_metrics
from hc_jax.runs.workdir import CONFIG, LANGUAGE_MODEL, saved_description
from hc_jax.tables import aligned, in_bytes


@dataclasses.dataclass(frozen=True)
class Stored:
  """Checkpoint on disk, whole or damaged.

  Attributes:
    step: number of steps before it was saved.
    num_bytes: size of its files.
    fault: damage in words; None if every file is as it was written.
    best: value by which checkpoints are compared, usually val/loss; None if it was not evaluated.
  """

  step: int
  num_bytes: int
  fault: str | None
  best: float | None


def stored(workdir: str) -> list[Stored]:
  """Returns the checkpoints of a run by step, damaged ones too; reads every file to hash it."""
  found = []
  for step in checkpoint.folders_of(workdir):
    fault, best = _fault(checkpoint.path_of(workdir, step), step), None
    with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError):
      best = checkpoint.best_value(checkpoint.read_card(workdir, step))
    size = _size(checkpoint.path_of(workdir, step))
    found.append(Stored(step, size, fault, best))
  return found


def _fault(folder: str, step: int) -> str | None:
  try:
    return manifest.fault(folder, step)
  except OSError as error:
    return f"{os.path.relpath(error.filename or folder, folder)} cannot be read: {error.strerror}"


def report(workdir: str, step: int | None = None, log: Callable[[str], None] = print) -> int:
  """Prints a report on a run.

  Args:
    workdir: folder of the run.
    step: step of the checkpoint whose card and parameters are shown; None is the newest good one.
    log: called with each line.

  Returns:
    Number of damaged parts: checkpoints, and the run's config.

  Raises:
    UserError: the folder holds no run, or the run has no checkpoint of that step.
  """
  workdir = os.path.abspath(os.path.expanduser(workdir))
  found = stored(workdir)
  damaged = sum(one.fault is not None for one in found)
  log(workdir)
  try:
    saved_description(workdir)
  except UserError as error:
    if not found:
      raise
    log(f"  {CONFIG} is DAMAGED: {error}")
    damaged += 1
  if step is not None and step not in [one.step for one in found]:
    there = ", ".join(str(one.step) for one in found) or "none"
    raise UserError(f"{workdir} holds no checkpoint {step}; there are: {there}")
  _list(workdir, found, log)
  good = [one.step for one in found if one.fault is None and step in (None, one.step)]
  if good:
    _card(checkpoint.read_card(workdir, good[-1]), good[-1], log)
    shapes = restore.stored_shapes(checkpoint.path_of(workdir, good[-1], "params"))
    log("")
    for line in param_lines(shapes, f"parameters of step {good[-1]}"):
      log(f"  {line}".rstrip())
  elif found:
    which = f"checkpoint {step} is damaged" if step is not None else "no checkpoint is good"
    log(f"\n{which}: no card or parameters to show")
  _metrics(workdir, log)
  return damaged


def _list(workdir: str, found: list[Stored], log: Callable[[str], None]) -> None:
  if not found:
    log("\nno checkpoint yet")
    return
  rows = [["step", "size", "best", "manifest"]]
  for one in found:
    best = "-" if one.best is None else f"{one.best:.4f}"
    state = "good" if one.fault is None else f"DAMAGED: {one.fault}"
    rows.append([str(one.step), in_bytes(one.num_bytes), best, state])
  log("")
  for line in aligned(rows, right=(0, 1, 2)):
    log(f"  {line}")
  if names := folders.list_folder(workdir, restore.REJECTED):
    log(f"moved aside as damaged before, to {restore.REJECTED}/: {', '.join(names)}")


def _card(card: dict[str, Any], step: int, log: Callable[[str], None]) -> None:
  facts = _language_facts(card) if card["task"] == LANGUAGE_MODEL else _task_facts(card)
  lines = {
    "format": card.get("format"),
    **facts,
    "forked": _origin(card.get("fork")),
    "orientation": card["conventions"].get("orientation"),
    "versions": ", ".join(f"{k} {v}" for k, v in card["versions"].items()),
  }
  log(f"\ncard of step {step}")
  for name, value in lines.items():
    if value is not None:
      log(f"  {name:<13}{value}")


def _task_facts(card: dict[str, Any]) -> dict[str, Any]:
  """Returns the facts to show from the card of a user's own task."""
  return {
    "task": card["task"],
    **{str(name)[:13]: value for name, value in card["data"].items()},
    **{
      key: ", ".join(f"{k}={v!r}" for k, v in _group(card["config"], key).items()) or None
      for key in card["config"]
    },
  }


def _language_facts(card: dict[str, Any]) -> dict[str, Any]:
  """Returns the facts to show from the card of a language model."""
  config, data = card["config"], card["data"]
  model, text = _group(config, "model"), _group(config, "data")
  fields = _group(model, "connection")
  given = [f"{k}={v!r}" for k, v in fields.items() if k != "name" and v is not None]
  return {
    "model": f"{model.get('num_layers')} layers of width {model.get('d_model')}, "
    f"{model.get('num_heads')} heads, {model.get('dtype')}",
    "connection": " ".join([str(fields.get("name")), *given]),
    "layers": model.get("layers") or None,
    "text": f"{text.get('name')}, fingerprint {data.get('fingerprint')}",
    "tokenizer": f"{data.get('tokenizer')}, vocabulary {data.get('vocab_size')}",
  }


def _group(values: dict[str, Any], key: str) -> dict[str, Any]:
  """Returns a group of a card's config; {} if the card, which may be a stranger's, has none."""
  found = values.get(key)
  return found if isinstance(found, dict) else {}


def _origin(fork: Any) -> str | None:
  """Returns the source and the changes of a fork, in words; None if the run is not a fork."""
  if not isinstance(fork, dict):
    return None
  changed = "; ".join(map(str, fork.get("changed") or ["nothing"]))
  state = " with its optimizer state" if fork.get("optimizer") else ""
  return f"from {fork.get('run')} at step {fork.get('step')}{state}; changed: {changed}"


def _metrics(workdir: str, log: Callable[[str], None]) -> None:
  rows = read_metrics(workdir)
  if not rows:
    log("\nno metrics yet")
    return
  log(f"\nnewest metrics, of step {rows[-1]['step']}")
  for name, value in rows[-1].items():
    if name != "step":
      log(f"  {name:<24}{value:.6g}" if isinstance(value, float) else f"  {name:<24}{value}")


def _size(folder: str) -> int:
  return sum(
    os.lstat(os.path.join(parent, name)).st_size
    for parent, _, names in os.walk(folder)
    for name in names
  )
