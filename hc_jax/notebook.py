"""Output in a notebook: a block of text that is updated in place, a curve of the loss, a page."""

import contextlib
import html
import importlib
import math
import os
import pathlib
import sys
import threading
import time
from collections import deque
from typing import Any

from hc_jax.errors import UserError

FIRST, NEWEST = 6, 14  # numbers of first and newest lines that are shown; the first name the run
_PAUSE = 0.25  # seconds between two progress lines; the browser draws each one
_CURVE_PAUSE = 1.0  # seconds between two drawings of the curve, which are larger
_POINTS = 300  # most points of a curve; the browser gets all points at each drawing
_WIDTH, _HEIGHT = 480, 160  # pixels of a curve
_LEFT, _BOTTOM, _EDGE = 46, 20, 8  # pixels between a curve and its edges
_BARS = "▁▂▃▄▅▆▇█"


def block() -> "Block | None":
  """Returns a block in the output of the running cell; None outside a notebook.

  A shell counts as a notebook only if it has a kernel, because IPython in a terminal has none.
  """
  get_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
  return Block() if hasattr(get_shell(), "kernel") else None


class _Place:
  """Output of a cell that is updated in place; ignores errors, which must not end a run."""

  def __init__(self) -> None:
    self._handle: Any = None

  def show(self, data: dict[str, str]) -> None:
    """Replaces the output by `data`, which has a text for each media type."""
    with contextlib.suppress(Exception):
      if self._handle is None:
        display = importlib.import_module("IPython.display").display
        self._handle = display(data, raw=True, display_id=True)
      else:
        self._handle.update(data, raw=True)


class Block:
  """Block in a cell's output: the first and newest lines, a progress line, and the loss."""

  def __init__(self) -> None:
    self._first: list[str] = []
    self._newest: deque[str] = deque(maxlen=NEWEST)
    self._left_out = 0
    self._progress = ""
    self._shown = self._drawn = 0.0
    self._text, self._picture = _Place(), _Place()
    self._curve = Curve()
    self._lock = threading.RLock()  # a mirror's thread writes lines too

  def write(self, text: str) -> None:
    """Adds lines; when there are too many, drops the oldest after the first `FIRST`."""
    with self._lock:
      for line in text.split("\n"):
        if len(self._first) < FIRST:
          self._first.append(line)
        else:
          self._left_out += len(self._newest) == NEWEST
          self._newest.append(line)
      self._show()

  def progress(self, line: str) -> None:
    """Replaces the progress line, which is shown last."""
    with self._lock:
      self._progress = line
      if time.monotonic() - self._shown > _PAUSE:
        self._show()

  def loss(self, kind: str, step: int, value: float) -> None:
    """Adds a point to the curve.

    Args:
      kind: "train" or "val".
      step: step of the run.
      value: loss after that step.
    """
    with self._lock:
      self._curve.add(kind, step, value)
      if time.monotonic() - self._drawn > _CURVE_PAUSE:
        self._draw()

  def restart(self) -> None:
    """Clears the curve and the progress line, for the next run in this block."""
    with self._lock:
      self._curve, self._progress = Curve(), ""

  def finish(self) -> None:
    """Shows lines and points that were not shown yet."""
    with self._lock:
      if self._progress:
        self._show()
      self._draw()

  def _show(self) -> None:
    gap = f"... {self._left_out:,} lines; metrics.jsonl has every number"
    between = [gap] if self._left_out else []
    progress = [self._progress] if self._progress else []
    text = "\n".join([*self._first, *between, *self._newest, *progress])
    self._shown = time.monotonic()
    self._text.show({"text/plain": text})

  def _draw(self) -> None:
    self._drawn = time.monotonic()
    if self._curve.drawable:
      self._picture.show({"text/html": self._curve.svg(), "text/plain": self._curve.text()})


class Curve:
  """Curve of training and validation loss against steps."""

  def __init__(self) -> None:
    self._points: dict[str, list[tuple[int, float]]] = {"train": [], "val": []}
    self._every, self._seen = 1, 0

  @property
  def drawable(self) -> bool:
    """Whether there are at least two training points to connect."""
    return len(self._points["train"]) > 1

  def add(self, kind: str, step: int, value: float) -> None:
    """Adds a point; keeps only every second, fourth, ... training point of a long run."""
    if not math.isfinite(value):
      return
    points = self._points[kind]
    if kind == "train":
      self._seen += 1
      if self._seen % self._every:
        return
      if len(points) == _POINTS:
        del points[1::2]
        self._every *= 2
    elif len(points) == _POINTS:
      del points[1::2]
    points.append((step, value))

  def text(self) -> str:
    """Returns the training losses as one line of bars."""
    values = [value for _, value in self._points["train"]]
    few = values[:: math.ceil(len(values) / 40)]
    low, high = min(few), max(few)
    scale = (len(_BARS) - 1) / ((high - low) or 1.0)
    bars = "".join(_BARS[round((value - low) * scale)] for value in few)
    return f"loss {values[0]:.4f} {bars} {values[-1]:.4f}"

  def svg(self) -> str:
    """Returns an SVG drawing, in the notebook's text colour, so that it fits light and dark."""
    every = [point for points in self._points.values() for point in points]
    first, last = min(step for step, _ in every), max(step for step, _ in every)
    low, high = min(value for _, value in every), max(value for _, value in every)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    right, bottom = _WIDTH - _EDGE, _HEIGHT - _BOTTOM

    def at(step: int, value: float) -> str:
      x = _LEFT + (right - _LEFT) * (step - first) / max(last - first, 1)
      return f"{x:.1f},{_EDGE + (bottom - _EDGE) * (high - value) / (high - low):.1f}"

    def label(x: int, y: int, text: str, anchor: str = "end") -> str:
      return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'

    line = " ".join(at(*point) for point in self._points["train"])
    centres = [at(*point).split(",") for point in self._points["val"]]
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="3.5"/>' for x, y in centres)
    key = "line: training" + ("; dots: validation" if dots else "")
    return (
      f'<svg role="img" aria-label="{self.text()}" width="{_WIDTH}" height="{_HEIGHT}" '
      f'viewBox="0 0 {_WIDTH} {_HEIGHT}" style="max-width:100%;font:11px sans-serif" '
      'fill="currentColor">'
      f'<path d="M{_LEFT} {_EDGE}V{bottom}H{right}" fill="none" stroke="currentColor" '
      'stroke-opacity=".4"/>'
      f'<polyline points="{line}" fill="none" stroke="#2f8fc4" stroke-width="2"/>'
      f'<g fill="#e0701e">{dots}</g>'
      + label(_LEFT - 6, _EDGE + 8, f"{high:.3g}")
      + label(_LEFT - 6, bottom, f"{low:.3g}")
      + label(_LEFT, _HEIGHT - 5, f"step {first:,}", "start")
      + label(right, _HEIGHT - 5, f"{last:,}")
      + label(right, _EDGE + 8, f"loss ({key})")
      + "</svg>"
    )


# In a frame with `srcdoc`, a link to `#part` would lead to the page around the frame.
_FOLLOW = """<script>
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  event.preventDefault();
  document.getElementById(link.getAttribute("href").slice(1))?.scrollIntoView();
});
</script>"""


class Page:
  """HTML file in the output of a cell, in a frame that separates its style from the notebook's.

  `hc_jax.notebook.Page("runs/x/analysis/analysis.html")` is the last line of the cell. The notebook
  keeps a copy of the file. The file's scripts run in the frame and cannot reach the notebook.
  """

  def __init__(self, path: str | os.PathLike[str], height: int = 720) -> None:
    """Reads the file.

    Args:
      path: HTML file that needs no other file.
      height: height of the frame in pixels.

    Raises:
      UserError: the file cannot be read.
    """
    try:
      self._html = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
      reason = getattr(error, "strerror", None) or "it is not UTF-8"
      raise UserError(
        f"`path`={os.fspath(path)!r} cannot be read: {reason}; hc-jax analyze RUN and "
        "hc_jax.analysis.report.write_report write analysis.html"
      ) from error
    self._path, self._height = os.fspath(path), height

  def __repr__(self) -> str:
    return f"Page({self._path!r})"

  def _repr_html_(self) -> str:
    content = html.escape(self._html + _FOLLOW)
    return (
      f'<iframe title="{html.escape(os.path.basename(self._path))}" sandbox="allow-scripts" '
      f'srcdoc="{content}" width="100%" height="{self._height}" '
      'style="box-sizing:border-box;border:1px solid #8886;border-radius:4px"></iframe>'
    )
