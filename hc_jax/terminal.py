"""Escaping of a stranger's text before it is printed, so that it cannot control the terminal."""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# Control characters except tab and newline; halves of surrogate pairs, which cannot be encoded; and
# marks that reorder a line and so disguise its text.
_UNSAFE = re.compile(
  "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape(text: str) -> str:
  r"""Returns `text` with characters that could control a terminal written out, as `\x1b`."""
  return _UNSAFE.sub(lambda found: _written(ord(found[0])), text)


def _written(code: int) -> str:
  return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class Escaping:
  """Text stream that escapes all text and passes it to another stream.

  Attributes:
    stream: the other stream.
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
  """Escapes all text that is printed to stdout and stderr during the context."""
  with contextlib.ExitStack() as redirected:
    if sys.stdout is not None:  # None: closed before Python started
      redirected.enter_context(contextlib.redirect_stdout(Escaping(sys.stdout)))
    if sys.stderr is not None:
      redirected.enter_context(contextlib.redirect_stderr(Escaping(sys.stderr)))
    yield
