"""Output in a notebook: a block of text that is replaced, where a terminal gets line after line."""

import contextlib
import importlib
import sys
import time
from collections import deque
from typing import Any

KEPT = 20  # lines
_PAUSE = 0.25  # seconds between two progress lines; the browser draws each of them


def block() -> "Block | None":
  """Returns a block in the output of the cell that runs; None outside of a notebook.

  IPython in a terminal has a shell too, but no kernel.
  """
  get_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
  return Block() if hasattr(get_shell(), "kernel") else None


class Block:
  """The newest lines and one line of progress, in a place of their own in a cell's output."""

  def __init__(self) -> None:
    self._lines: deque[str] = deque(maxlen=KEPT)
    self._written = 0
    self._progress = ""
    self._shown = 0.0
    self._handle: Any = None

  def write(self, line: str) -> None:
    """Adds a line; the oldest goes when there are more than `KEPT`."""
    self._lines.append(line)
    self._written += 1
    self._show()

  def progress(self, line: str) -> None:
    """Replaces the line of progress, which is the last one."""
    self._progress = line
    if time.monotonic() - self._shown > _PAUSE:
      self._show()

  def _show(self) -> None:
    """Draws the block; losing the notebook costs a run nothing, as losing a terminal does."""
    left_out = self._written - len(self._lines)
    head = [f"({left_out:,} lines before; metrics.jsonl has every number)"] if left_out else []
    text = "\n".join([*head, *self._lines, *([self._progress] if self._progress else [])])
    self._shown = time.monotonic()
    with contextlib.suppress(Exception):
      if self._handle is None:
        display = importlib.import_module("IPython.display").display
        self._handle = display({"text/plain": text}, raw=True, display_id=True)
      else:
        self._handle.update({"text/plain": text}, raw=True)
