"""Lines for the console: losing it never costs a run its steps, nor a command its exit code.

A log on a full disk, a reader that is gone, a closed stdout, a pipe that nobody reads, an encoding
without the letters of a path: the line is dropped, or its letters are escaped.
"""

import contextlib
import io
import os
import select
import sys
from typing import Any, TextIO

from hc_jax import terminal

_PATIENCE = 1.0  # seconds to wait for the reader of a full pipe
_dropped: dict[int, int] = {}  # lines dropped because nobody reads, by file descriptor


def write_line(text: str, stream: Any) -> None:
  """Writes a line at once, also into a pipe, and whole, also from a thread; never raises.

  A full pipe is waited for once, for a second; while it stays full its lines are dropped.
  """
  if isinstance(stream, terminal.Escaping):
    text, stream = terminal.escape(text), stream.stream
  with contextlib.suppress(OSError, ValueError):  # ValueError: closed
    if type(stream) is io.TextIOWrapper:  # a notebook and a test have streams of their own
      _write_through(text, stream)
    elif stream is not None:  # None: closed before Python started
      stream.write(text + "\n")
      stream.flush()


def _write_through(text: str, stream: TextIO) -> None:
  """Passes by the stream's buffer, so that a line that cannot be written does not stay in it."""
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
  """Whether a write of a line (PIPE_BUF, 4096 bytes) would not block."""
  poll = select.poll()
  poll.register(file, select.POLLOUT)
  return bool(poll.poll(1000 * seconds))


def prepare() -> None:
  """Makes the streams of a program safe to print to; the first thing that a program does.

  Letters that an encoding lacks are escaped. A closed stdin, stdout or stderr is opened on
  /dev/null: the next file that the program opens would take its number, and what libraries print
  would be written into that file.
  """
  for file in range(3):
    try:
      os.fstat(file)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
  for stream in (sys.stdout, sys.stderr):
    if type(stream) is io.TextIOWrapper:
      stream.reconfigure(errors="backslashreplace")


def finish() -> None:
  """Lets go of what a stream cannot take: Python's own flush at the exit would fail or block."""
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
