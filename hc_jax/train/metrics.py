"""What a run measured: `metrics.jsonl`, one row per step, and TensorBoard's events."""

import json
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from hc_jax.durable import write_atomically
from hc_jax.train.errors import writing
from hc_jax.train.events import Events

FILE = "metrics.jsonl"


def read_metrics(workdir: str) -> list[dict[str, Any]]:
  """The rows of a run's `metrics.jsonl`, in order of step; a torn line is left out."""
  return _parse(os.path.join(workdir, FILE))[0]


def _parse(path: str) -> tuple[list[dict[str, Any]], int]:
  """Whole rows of a file, and the number of lines that are none."""
  try:
    with open(path, "rb") as file:
      lines = file.read().split(b"\n")
  except FileNotFoundError:
    return [], 0
  rows, torn = [], 0
  for line in lines:
    try:
      row = json.loads(line) if line else None
    except ValueError:
      row = 0
    if isinstance(row, dict) and isinstance(row.get("step"), int):
      rows.append(row)
    else:
      torn += row is not None
  return rows, torn


class Metrics:
  """Appends rows to `metrics.jsonl` and to TensorBoard's event files.

  On a run that is resumed at step k, rows past k and torn lines are dropped first, by an atomic
  rewrite, since the steps after k are taken again. Rows are given in order of step and only once.
  """

  def __init__(
    self, workdir: str, restored: int | None, log: Callable[[str], None] = print
  ) -> None:
    self._path = os.path.join(workdir, FILE)
    self._workdir = workdir
    self._restored = restored
    self._events: Events | None = None
    with writing(self._path):
      self._trim(-1 if restored is None else restored, log)
      self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)

  def _trim(self, last: int, log: Callable[[str], None]) -> None:
    rows, torn = _parse(self._path)
    kept = {row["step"]: row for row in rows if row["step"] <= last}
    text = "".join(_line(row) for row in kept.values())
    if not os.path.exists(self._path):
      return
    with open(self._path, "rb") as file:
      if file.read() == text.encode():
        return
    write_atomically(self._path, text)
    log(
      f"{FILE}: kept {len(kept)} rows up to step {max(last, 0)}, dropped {len(rows) - len(kept)} "
      f"of steps that are taken again and {torn} torn"
    )

  def write(self, row: dict[str, Any]) -> None:
    """Appends `{"step": ..., name: value, ...}`; the line is with the system when this returns.

    Raises:
      StorageError: the disk is full, or the like.
    """
    with writing(self._path):
      self._file.write(_line(row))
      self._file.flush()
      self._open_events().write(row)

  def sync(self) -> None:
    """Forces the rows to the disk, so that a checkpoint never outlives the rows before it."""
    with writing(self._path):
      self._file.flush()
      os.fsync(self._file.fileno())
      if self._events is not None:
        self._events.flush()

  def _open_events(self) -> Events:
    if self._events is None:
      # Events of steps that are taken again are hidden by the first event's purge mark.
      purge = None if self._restored is None else self._restored + 1
      self._events = Events(os.path.join(self._workdir, "tensorboard"), purge)
    return self._events

  def close(self) -> None:
    """Closes the files; a disk that is full is not reported a second time."""
    try:
      self._file.close()
      if self._events is not None:
        self._events.close()
    except OSError:
      pass

  def __enter__(self) -> "Metrics":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.close()


class NoMetrics:
  """What the other processes of a run have: the first one writes for all."""

  def write(self, row: dict[str, Any]) -> None:
    """Does nothing."""

  def sync(self) -> None:
    """Does nothing."""

  def __enter__(self) -> "NoMetrics":
    return self

  def __exit__(self, *_: object) -> None:
    pass


def _line(row: dict[str, Any]) -> str:
  return json.dumps(row, allow_nan=False) + "\n"
