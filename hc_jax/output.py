"""Printing that never raises or blocks, so that losing the console cannot end a run.

A line is dropped if stdout is closed, its reader is gone or does not read, or its disk is full.
Characters that the encoding lacks are escaped.
"""

import contextlib
import io
import os
import select
import sys
from typing import Any, TextIO

from hc_jax import terminal

_PATIENCE = 1.0  # seconds to wait for the reader of a full pipe
_dropped: dict[int, int] = {}  # number of lines dropped because nobody reads, by file descriptor


def write_line(text: str, stream: Any) -> None:
  """Writes a line whole and without buffering, from any thread; never raises.

  Waits once, for a second, if a pipe is full, and drops lines while it stays full.
  """
  if isinstance(stream, terminal.Escaping):
    text, stream = terminal.escape(text), stream.stream
  with contextlib.suppress(OSError, ValueError):  # ValueError: closed
    if type(stream) is io.TextIOWrapper:  # notebooks and tests replace the streams
      _write_through(text, stream)
    elif stream is not None:  # None: closed before Python started
      stream.write(text + "\n")
      stream.flush()


def _write_through(text: str, stream: TextIO) -> None:
  """Writes past the stream's buffer, so that a line that cannot be written does not stay in it."""
  file = stream.fileno()
  dropped = _dropped.get(file, 0)
  if not _ready(file, 0 if dropped else _PATIENCE):
    _dropped[file] = dropped + 1
    return
  stream.flush()
  if dropped:
    text = f"({dropped:,} lines are missing here: nobody read them)\n{text}"
    del _dropped[file]
  rest = (text + "\n").encode(stream.encoding, "backslashreplace")
  while rest:
    rest = rest[os.write(file, rest) :]


def _ready(file: int, seconds: float = 0.0) -> bool:
  """Returns whether a line (up to PIPE_BUF, 4096 bytes) can be written without blocking."""
  poll = select.poll()
  poll.register(file, select.POLLOUT)
  return bool(poll.poll(1000 * seconds))


def prepare() -> None:
  """Makes the streams of a program safe to print to. Call it first in a program.

  Characters that the encoding lacks will be escaped. A closed stdin, stdout or stderr is opened on
  /dev/null. Otherwise the next file that the program opens would get its number, and libraries
  would print into that file.
  """
  for file in range(3):
    try:
      os.fstat(file)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
  for stream in (sys.stdout, sys.stderr):
    if type(stream) is io.TextIOWrapper:
      stream.reconfigure(errors="backslashreplace")


def finish() -> None:
  """Discards text that a stream cannot take, because Python's flush at exit would fail or block."""
  for stream in (sys.stdout, sys.stderr):
    if type(stream) is not io.TextIOWrapper:
      continue
    try:
      if _ready(stream.fileno()):
        stream.flush()
        continue
    except (OSError, ValueError):
      pass
    with contextlib.suppress(OSError, ValueError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
