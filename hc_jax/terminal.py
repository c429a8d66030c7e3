"""Text from a stranger's files on its way to a terminal: escape sequences are shown, not obeyed."""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# Controls except tab and newline; halves of surrogate pairs, which no encoding takes; and marks
# that reorder a line, so that it reads as another.
_UNSAFE = re.compile(
  "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape(text: str) -> str:
  r"""Returns `text` with what could control a terminal written out, as `\x1b`."""
  return _UNSAFE.sub(lambda found: _written(ord(found[0])), text)


def _written(code: int) -> str:
  return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class _Escaping:
  """A text stream that escapes what is written to it."""

  def __init__(self, stream: TextIO) -> None:
    self._stream = stream

  def write(self, text: str) -> int:
    """Writes `text`, escaped; returns its length."""
    self._stream.write(escape(text))
    return len(text)

  def writelines(self, lines: Any) -> None:
    """Writes each line, escaped."""
    for line in lines:
      self.write(line)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


@contextlib.contextmanager
def escaping() -> Iterator[None]:
  """Escapes all that is printed while it is entered, to stdout and to stderr."""
  with (
    contextlib.redirect_stdout(_Escaping(sys.stdout)),
    contextlib.redirect_stderr(_Escaping(sys.stderr)),
  ):
    yield
