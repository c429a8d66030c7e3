"""Metrics of a run: `metrics.jsonl`, one row per logged step, and TensorBoard's events."""

import errno
import json
import os
import re
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Any

from hc_jax import folders
from hc_jax.durable import write_atomically
from hc_jax.runs.errors import writing
from hc_jax.runs.events import Events
from hc_jax.runs.trackers import Trackers

FILE = "metrics.jsonl"
LIMIT = 1 << 30  # largest file in bytes; a row takes about 600
# A row ends with the CRC-32 of the row without that entry.
_CHECKED = re.compile(rb'(\{.*), "crc32": (\d{1,10})\}')


def read_metrics(workdir: str) -> list[dict[str, Any]]:
  """Returns the rows of a run's `metrics.jsonl`, in the order of the file.

  Skips lines that are not a step with finite numbers, and lines that do not match their CRC-32.
  Accepts rows without a CRC-32 only if most rows have none, as in files of earlier versions.

  Args:
    workdir: folder of the run.

  Returns:
    Mappings `{"step": ..., name: value, ...}`; none if the file does not exist.

  Raises:
    UserError: `metrics.jsonl` is not a plain file.
  """
  return _parse(workdir)[1]


def _parse(workdir: str) -> tuple[bytes, list[dict[str, Any]], int]:
  """Returns the file's bytes, its valid rows, and the number of other lines."""
  try:
    content = folders.read_bytes(workdir, FILE, LIMIT)
  except FileNotFoundError:
    return b"", [], 0
  lines = [line for line in content.split(b"\n") if line]
  found = [(line, _CHECKED.fullmatch(line)) for line in lines]
  is_old = sum(match is None for _, match in found) >= len(found) / 2
  sound = [_without_check(match) if match else line for line, match in found if match or is_old]
  rows = [row for line in sound if (row := _row(line)) is not None]
  return content, rows, len(lines) - len(rows)


def _without_check(row: re.Match[bytes]) -> bytes:
  """Returns a row without its CRC-32; empty if the CRC-32 does not match."""
  text = row[1] + b"}"
  return text if zlib.crc32(text) == int(row[2]) else b""


def _row(line: bytes) -> dict[str, Any] | None:
  try:
    row = folders.parse_json(line)
  except ValueError:
    return None
  if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
    return None
  return row if all(map(_is_number, row.values())) else None


def _is_number(value: Any) -> bool:
  return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


class Metrics:
  """Writer of rows to `metrics.jsonl`, TensorBoard's event files and trackers.

  When a run resumes at step k, it takes the steps after k again. So rows after k and torn lines are
  removed first, by an atomic rewrite. Give rows in the order of their steps, each step once.
  """

  def __init__(
    self,
    workdir: str,
    restored: int | None,
    log: Callable[[str], None] = print,
    trackers: Trackers | None = None,
  ) -> None:
    """Opens the files.

    Args:
      workdir: folder of the run.
      restored: step at which the run resumes; None for a new run.
      log: called with lines for the user.
      trackers: trackers that get each row after it is in the file, and that are closed with it.

    Raises:
      StorageError: the files cannot be read or written.
    """
    self._trackers = trackers
    self._path = os.path.join(workdir, FILE)
    self._workdir = workdir
    self._restored = restored
    self._events: Events | None = None
    with writing(self._path):
      self._trim(-1 if restored is None else restored, log)
      flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
      self._file = os.fdopen(folders.open_file(workdir, FILE, flags), "a", encoding="utf-8")

  def _trim(self, last: int, log: Callable[[str], None]) -> None:
    content, rows, torn = _parse(self._workdir)
    kept = {row["step"]: row for row in rows if row["step"] <= last}
    text = "".join(_line(row) for row in kept.values())
    # A file with hard links is written anew, so that rows do not appear under its other names.
    alone = not os.path.exists(self._path) or os.stat(self._path).st_nlink == 1
    if content == text.encode() and alone:
      return
    write_atomically(self._path, text)
    log(
      f"{FILE}: kept {len(kept)} rows up to step {max(last, 0)}, dropped {len(rows) - len(kept)} "
      f"of steps that are taken again and {torn} torn or damaged"
    )

  def write(self, row: dict[str, Any]) -> None:
    """Appends `{"step": ..., name: value, ...}`; flushes the line to the operating system.

    Raises:
      StorageError: the row cannot be written.
    """
    with writing(self._path):
      self._file.write(_line(row))
      self._file.flush()
      self._open_events().write(row)
    if self._trackers is not None:
      self._trackers.write(row)

  def sync(self) -> None:
    """Forces the rows to disk, so that after a crash no checkpoint is without its rows.

    Raises:
      StorageError: the rows cannot be written, or the run's folder was moved.
    """
    with writing(self._path):
      self._file.flush()
      if not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno())):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self._path)
      os.fsync(self._file.fileno())
      if self._events is not None:
        self._events.flush()

  def _open_events(self) -> Events:
    if self._events is None:
      # The first event's purge mark hides earlier events of the steps that are taken again.
      purge = None if self._restored is None else self._restored + 1
      self._events = Events(folders.make_folder(self._workdir, "tensorboard"), purge)
    return self._events

  def close(self) -> None:
    """Closes the files and the trackers; ignores a full disk, which was reported before."""
    if self._trackers is not None:
      self._trackers.close()
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
  """Writer that does nothing, for all processes except process 0."""

  def write(self, row: dict[str, Any]) -> None:
    """Does nothing."""

  def sync(self) -> None:
    """Does nothing."""

  def __enter__(self) -> "NoMetrics":
    return self

  def __exit__(self, *_: object) -> None:
    pass


def _line(row: dict[str, Any]) -> str:
  text = json.dumps(row, allow_nan=False)
  return f'{text[:-1]}, "crc32": {zlib.crc32(text.encode())}}}\n'
