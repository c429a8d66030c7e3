"""Figures of the unfolded connection matrices: arXiv 2409.19606, Figures 7, 13 and 14."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hc_jax.analysis.plots.style import POSITIVE, SIGNED, bound_of, subplots, write_numbers

MAX_NUMBERS = 9  # rows of a matrix whose numbers can still be read
ROWS, COLUMNS = "input of site (end: mean of streams)", "output of site (emb: embedding)"


def unfolded_matrices(
  matrices: Mapping[str, np.ndarray],
  spread: np.ndarray | None = None,
  title: str = "",
  fractions: int = 1,
) -> Figure:
  """Draws C(0) of a network and of known networks on one colour scale.

  Args:
    matrices: square matrices by panel title, the network's own first. Five panels make a row; the
      part above the diagonal stays empty.
    spread: standard deviation over tokens, drawn as a last panel with its own scale, or None.
    title: title above the figure.
    fractions: m, rows and columns for each site in the network's own matrices (others have one).
  """
  panels = len(matrices) + (spread is not None)
  return _panels(matrices, spread, title, fractions, columns=min(panels, 5), ylabel=ROWS)


def stream_matrices(streams: np.ndarray, title: str = "", fractions: int = 1) -> Figure:
  """Draws C(1) .. C(n): the weights of all sources in each stream before each site.

  Args:
    streams: `[n, K + 1, (K + 1) m]`, from `unfold_streams`, without token axes.
    title: title above the figure.
    fractions: m, columns for each source.
  """
  matrices = {f"C({i + 1}): stream {i}": matrix for i, matrix in enumerate(streams)}
  label = "held before site"
  return _panels(matrices, None, title, fractions, columns=min(len(matrices), 4), ylabel=label)


def _panels(
  matrices: Mapping[str, np.ndarray],
  spread: np.ndarray | None,
  title: str,
  fractions: int,
  columns: int,
  ylabel: str,
) -> Figure:
  own = next(iter(matrices.values())).shape[-1]  # other networks have no fractions
  parts = {name: fractions if m.shape[-1] == own else 1 for name, m in matrices.items()}
  drawn = {name: _lower(m, parts[name]) for name, m in matrices.items()}
  rows = -(-(len(drawn) + (spread is not None)) // columns)
  fig, axes = subplots(
    rows,
    columns,
    figsize=(max(2.9 * columns, 6) + 1, 3.0 * rows + 0.7),
    squeeze=False,
  )
  fig.suptitle(title)
  flat, bound = axes.ravel(), bound_of(*drawn.values())
  for ax, (name, matrix) in zip(flat, drawn.items(), strict=False):
    ax.imshow(matrix, cmap=SIGNED, vmin=-bound, vmax=bound, aspect="auto")
    _label(ax, matrix, name, parts[name])
  bar = fig.colorbar(flat[0].images[0], ax=list(flat), shrink=0.8, pad=0.01)
  bar.set_label("weight (no unit)")
  if spread is not None:
    ax, values = flat[len(drawn)], _lower(spread, fractions)
    top = bound_of(values, least=1e-3)
    image = ax.imshow(values, cmap=POSITIVE, vmin=0, vmax=top, aspect="auto")
    _label(ax, values, "standard deviation\nover tokens", fractions)
    inset = ax.inset_axes((0.93, 0.45, 0.05, 0.5))  # the half above the diagonal is empty
    fig.colorbar(image, cax=inset, ticklocation="left").ax.tick_params(labelsize=7)
  for ax in flat[len(drawn) + (spread is not None) :]:
    ax.set_visible(False)
  fig.supxlabel(COLUMNS, fontsize=10)
  fig.supylabel(ylabel, fontsize=10)
  return fig


def _lower(matrix: np.ndarray, fractions: int) -> np.ndarray:
  """Returns the matrix with NaN above the (block) diagonal: layers do not see later layers."""
  rows, columns = matrix.shape
  i, j = np.indices(matrix.shape)
  return np.where(j // fractions <= i // (rows * fractions // columns), matrix, np.nan)


def _label(ax: Any, matrix: np.ndarray, name: str, fractions: int) -> None:
  rows, columns = matrix.shape
  ax.set_title(name, fontsize=9)
  count = columns // fractions - 1  # sites
  sites = range(0, count, max(1, -(-count // 10)))
  _ticks(ax.set_xticks, fractions, {0: "emb"} | {k + 1: str(k) for k in sites if k or count <= 10})
  _ticks(
    ax.set_yticks,
    fractions if rows == columns else 1,
    {k: str(k) for k in sites if k < count - 1 or count <= 10} | {count: "end"},
  )
  ax.tick_params(labelsize=7)
  if max(rows, columns) <= MAX_NUMBERS:
    write_numbers(ax, matrix, size=6)


def _ticks(set_ticks: Any, fractions: int, labels: Mapping[int, str]) -> None:
  """Labels groups of `fractions` rows or columns by the number of the group."""
  places = [k * fractions + (fractions - 1) / 2 for k in labels]
  set_ticks(places, list(labels.values()))
