"""Figures that compare two networks on the same axes."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from hc_jax.analysis.plots.depth import FLOOR, log_scale
from hc_jax.analysis.plots.style import COLORS, subplots

_LINES = (("o-", "s--"), ("^-", "D--"))  # lines of the first and of the second network


def compared(
  panels: Mapping[str, Sequence[tuple[str, int, Sequence[Any], Sequence[Any]]]],
  xlabel: str,
  title: str = "",
  log: bool = False,
) -> Figure:
  """Draws a panel for each quantity, with a colour and markers for each network.

  Args:
    panels: curves `(label, network, x, y)` by the label of the y axis; network is 0 or 1.
    xlabel: label of the x axis of all panels.
    title: title above the figure.
    log: whether the y axes are logarithmic.
  """
  size = (7.5 if len(panels) == 1 else 5.5 * len(panels), 4.4)
  fig, axes = subplots(1, len(panels), figsize=size, squeeze=False)
  fig.suptitle(title, fontsize=11)
  for ax, (label, curves) in zip(axes[0], panels.items(), strict=True):
    drawn = [0, 0]
    for text, which, x, y in curves:
      line = _LINES[which][drawn[which] % 2]
      drawn[which] += 1
      y = [max(value, FLOOR) for value in y] if log else y
      style = {"color": COLORS[which], "fillstyle": ("full", "none")[which], "label": text}
      ax.plot(x, y, line if len(x) <= 60 else line[1:], lw=1.5, ms=5, **style)
    ax.set(xlabel=xlabel, ylabel=label)
    if log and curves:
      log_scale(ax)
    ax.grid(alpha=0.3, which="both")
    if curves:
      ax.legend(frameon=False, fontsize=8)
  return fig
