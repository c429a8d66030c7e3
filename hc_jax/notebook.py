"""Output in a notebook: a block of text that is replaced, where a terminal gets line after line."""

import contextlib
import importlib
import sys
import time
from collections import deque
from typing import Any

FIRST, NEWEST = 6, 14  # lines that stay: the first ones say what runs
_PAUSE = 0.25  # seconds between two progress lines; the browser draws each one


def block() -> "Block | None":
  """Returns a block in the output of the cell that runs; None outside of a notebook.

  IPython in a terminal has a shell too, but no kernel.
  """
  get_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
  return Block() if hasattr(get_shell(), "kernel") else None


class Block:
  """The first and the newest lines and one of progress, in one place of a cell's output."""

  def __init__(self) -> None:
    self._first: list[str] = []
    self._newest: deque[str] = deque(maxlen=NEWEST)
    self._left_out = 0
    self._progress = ""
    self._shown = 0.0
    self._handle: Any = None

  def write(self, line: str) -> None:
    """Adds a line; the oldest goes when there are too many, except the first ones."""
    if len(self._first) < FIRST:
      self._first.append(line)
    else:
      self._left_out += len(self._newest) == NEWEST
      self._newest.append(line)
    self._show()

  def progress(self, line: str) -> None:
    """Replaces the line of progress, which is the last one."""
    self._progress = line
    if time.monotonic() - self._shown > _PAUSE:
      self._show()

  def _show(self) -> None:
    """Draws the block; losing the notebook costs a run nothing, as losing a terminal does."""
    gap = f"... {self._left_out:,} lines; metrics.jsonl has every number"
    between = [gap] if self._left_out else []
    progress = [self._progress] if self._progress else []
    text = "\n".join([*self._first, *between, *self._newest, *progress])
    self._shown = time.monotonic()
    with contextlib.suppress(Exception):
      if self._handle is None:
        display = importlib.import_module("IPython.display").display
        self._handle = display({"text/plain": text}, raw=True, display_id=True)
      else:
        self._handle.update({"text/plain": text}, raw=True)
