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


class Escaping:
  """A text stream that escapes what is written to it.

  Attributes:
    stream: stream behind it.
  """

  def __init__(self, stream: TextIO) -> None:
    self.stream = stream

  def write(self, text: str) -> int:
    """Writes `text`, escaped; returns its length."""
    self.stream.write(escape(text))
    return len(text)

  def writelines(self, lines: Any) -> None:
    """Writes each line, escaped."""
    for line in lines:
      self.write(line)

  def __getattr__(self, name: str) -> Any:
    return getattr(self.stream, name)


@contextlib.contextmanager
def escaping() -> Iterator[None]:
  """Escapes all that is printed while it is entered, to stdout and to stderr."""
  with contextlib.ExitStack() as redirected:
    if sys.stdout is not None:  # None: closed before Python started
      redirected.enter_context(contextlib.redirect_stdout(Escaping(sys.stdout)))
    if sys.stderr is not None:
      redirected.enter_context(contextlib.redirect_stderr(Escaping(sys.stderr)))
    yield
