"""Style shared by all figures: colours that the colour-blind tell apart, and saving of files."""

import io
import os
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hc_jax.durable import write_atomically

# Okabe and Ito's colours without yellow, which is too pale; the darkest first. Grey never shows a
# stream.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#7F7F7F"
MARKERS = "os^Dv<>P"  # because lines must differ by more than colour
SIGNED, POSITIVE = "PuOr_r", "cividis_r"
FORMATS = ("png", "pdf", "svg")
# No dates and no random names, so that the same figure always gives the same bytes.
_SETTINGS = {"svg.hashsalt": "hc_jax", "svg.fonttype": "none", "pdf.fonttype": 42}
_METADATA = {"png": None, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def subplots(
  rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], **options: Any
) -> tuple[Figure, Any]:
  """Returns a figure and its axes, without pyplot so that a notebook's backend is untouched."""
  figure = Figure(figsize=figsize, layout="constrained")
  return figure, figure.subplots(rows, columns, **options)


def save(figure: Figure, stem: str | os.PathLike, formats: Sequence[str] = FORMATS) -> list[str]:
  """Writes a figure as `stem.png` (150 dots per inch), `stem.pdf` and `stem.svg`.

  Args:
    figure: figure, laid out once here for all formats.
    stem: path without extension.
    formats: formats to write, a subset of "png", "pdf" and "svg".

  Returns:
    Paths of the files written.
  """
  figure.draw_without_rendering()
  figure.set_layout_engine("none")  # otherwise each format would lay the figure out again
  paths = []
  with matplotlib.rc_context(_SETTINGS):
    for kind in formats:
      paths.append(f"{stem}.{kind}")
      drawn = io.BytesIO()
      figure.savefig(drawn, format=kind, dpi=150, metadata=_METADATA[kind])
      write_atomically(paths[-1], drawn.getvalue())
  return paths


def stream_style(i: int, n: int) -> dict[str, Any]:
  """Returns colour and marker of stream i of n; more than seven streams get shades of one map."""
  color = COLORS[i] if n <= len(COLORS) else matplotlib.colormaps["viridis"](i / (n - 1))
  return {"color": color, "marker": MARKERS[i % len(MARKERS)]}


def bound_of(*values: np.ndarray, least: float = 0.01) -> float:
  """Returns the end of a symmetric colour scale, at least `least` so that rounding stays pale."""
  return max([least, *(float(np.nanmax(np.abs(v))) for v in values if np.isfinite(v).any())])


def write_numbers(ax: Any, values: np.ndarray, size: float = 7) -> None:
  """Writes each finite number into its cell of the image that `ax` already shows."""
  for i, j in np.argwhere(np.isfinite(values)):
    size_of = abs(values[i, j])
    digits = ".2f" if size_of < 9.995 else ".1f" if size_of < 99.95 else ".3g"
    text = f"{values[i, j]:{digits}}".replace("-0.00", "0.00")
    color = ink(ax.images[0].to_rgba(values[i, j]))
    ax.text(j, i, text, ha="center", va="center", fontsize=size, color=color)


def ink(color: Sequence[float]) -> str:
  """Returns black or white, whichever contrasts more with a colour (relative luminance, WCAG 2)."""
  linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in color[:3]]
  return "black" if np.dot((0.2126, 0.7152, 0.0722), linear) > 0.179 else "white"


def site_ticks(ax: Any, labels: Sequence[str], most: int = 24) -> None:
  """Labels the x axis with at most `most` short names of sites."""
  step = -(-len(labels) // most)
  ax.set_xticks(range(0, len(labels), step), labels[::step], rotation=60, ha="right", fontsize=8)
  for label in ax.get_xticklabels():
    label.set_rotation_mode("anchor")
  ax.set_xlim(-0.6, len(labels) - 0.4)


def short(site: str) -> str:
  """Returns the short name of a site, `3 attn` for `stack/layer_3/attn_connection`."""
  parts = [p for p in site.split("/") if p not in ("stack", "coefs")]
  parts = [p for p in parts if not p.startswith("segment_")]
  return " ".join(p.removesuffix("_connection").removeprefix("layer_") for p in parts) or site
