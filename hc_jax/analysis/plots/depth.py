"""Figures with depth on the x axis: similarity of inputs, gains, and the use of streams."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hc_jax.analysis.plots.style import COLORS, GREY, short, site_ticks, stream_style, subplots

FLOOR = 1e-9  # smaller values on logarithmic axes are raised to this; they are float32 rounding
SITE = "site: block and branch"
_GAINS = {  # measure: label, colour, line
  "amax_fwd": ("Amax forward: max |row sum|", COLORS[0], "o-"),
  "amax_bwd": ("Amax backward: max |column sum|", COLORS[1], "s-"),
  "norm_fwd": ("norm forward: max row sum of |P|", COLORS[0], "^:"),
  "norm_bwd": ("norm backward: max column sum of |P|", COLORS[1], "v:"),
}


def similarity(names: Sequence[str], percentiles: np.ndarray, title: str = "") -> Figure:
  """Draws the cosine of each site's input with the one before (arXiv 2409.19606, Figure 3).

  Args:
    names: names of all K sites.
    percentiles: `[K - 1, 3]`, from `adjacent_similarity`.
    title: title above the figure.
  """
  fig, ax = subplots(figsize=(8, 4.4))
  low, middle, high = percentiles.T
  x = np.arange(1, len(names))
  ax.fill_between(x, low, high, color=COLORS[0], alpha=0.25, lw=0, label="5th to 95th percentile")
  ax.plot(x, middle, "o-", color=COLORS[0], lw=1.6, ms=5, label="median over tokens")
  ax.set(ylabel="cosine with the input before", title=title, ylim=(min(0, low.min() - 0.05), 1.05))
  ax.set_xlabel(SITE)
  site_ticks(ax, [short(name) for name in names])
  ax.grid(alpha=0.3)
  ax.legend(frameon=False)
  return fig


def gains(
  names: Sequence[str], measures: Sequence[Mapping[str, np.ndarray]], title: str = ""
) -> Figure:
  """Draws gains (both definitions) and singular values, of each site and of composites.

  Args:
    names: names of the sites.
    measures: measures of each site, from `measures.measure`; token means are drawn.
    title: title above the figure.
  """
  fig, axes = subplots(2, 2, figsize=(12, 8), sharex=True)
  fig.suptitle(title)
  x, labels = np.arange(len(names)), [short(name) for name in names]
  for row, (head, what) in enumerate({"": "mix of the site", "composite_": "composite"}.items()):
    until = ", from the site to the last" if head else ""
    for key, (label, color, line) in _GAINS.items():
      y = np.array([m[f"{head}{key}"].mean() for m in measures])
      y = np.maximum(y, FLOOR) if head else y
      axes[row, 0].plot(x, y, line, color=color, lw=1.4, ms=4, label=label, fillstyle="none")
    axes[row, 0].axhline(1, color=GREY, lw=0.8, zorder=0)
    axes[row, 0].set(ylabel="gain (no unit)", title=f"gains of the {what}{until}")
    sigma = [_token_mean(m[f"{head}sigma"]) for m in measures]
    sigma = [np.maximum(y, FLOOR) for y in sigma] if head else sigma
    _plot_each(axes[row, 1], sigma, lambda i: f"σ{i + 1}")
    axes[row, 1].axhline(1, color=GREY, lw=0.8, zorder=0)
    axes[row, 1].set(
      ylabel="singular value (no unit)", title=f"singular values of the {what}{until}"
    )
    if head:
      for ax in axes[row]:
        log_scale(ax)
  for ax in axes.ravel():
    ax.grid(alpha=0.3)
  for column, side in enumerate(("left", "right")):
    handles = axes[0, column].get_legend_handles_labels()
    fig.legend(
      *handles, loc=f"outside lower {side}", frameon=False, fontsize=9, ncols=2 if not column else 4
    )
  for ax in axes[1]:
    ax.set_xlabel(SITE)
    site_ticks(ax, labels)
  return fig


def streams(
  names: Sequence[str], measures: Sequence[Mapping[str, np.ndarray]], title: str = ""
) -> Figure:
  """Draws the energy of each stream, the cosine between streams, and effective streams.

  Args:
    names: names of the sites.
    measures: measures of each site, from `measures.measure`; token means are drawn.
    title: title above the figure.
  """
  fig, axes = subplots(3, 1, figsize=(9, 9.5), sharex=True)
  fig.suptitle(title)
  x = np.arange(len(names))
  shares = [100 * _token_mean(m["energy"]) for m in measures]
  _plot_each(axes[0], shares, lambda i: f"stream {i}")
  axes[0].set(ylabel="share of the energy (%)", title="energy of each stream the site reads")
  axes[0].set_ylim(0, None)
  _band(axes[1], x, [m["stream_cosine"] for m in measures])
  axes[1].set(ylabel="cosine", title="cosine between streams: mean over pairs")
  for i, (key, what) in enumerate(
    {"read": "|read|", "write": "|write|", "energy": "energy"}.items()
  ):
    y = [np.nanmean(m[f"effective_{key}"]) for m in measures]
    axes[2].plot(x, y, lw=1.4, ms=4, label=f"by {what}", **stream_style(i, 3))
  axes[2].set(ylabel="streams", title="effective streams: exp of the entropy of the shares")
  axes[2].set_ylim(0.9, max(map(len, shares)) + 0.1)
  for ax in axes:
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize=8, ncols=4)
  site_ticks(axes[2], [short(name) for name in names], most=48)
  axes[2].set_xlabel(SITE)
  return fig


def _plot_each(ax, values: Sequence[np.ndarray], label: Callable[[int], str]) -> None:
  """Draws one line for the i-th value of every site; sites may have different numbers of values."""
  most = max(map(len, values))
  for i in range(most):
    known = [k for k, v in enumerate(values) if len(v) > i]
    y = [values[k][i] for k in known]
    ax.plot(known, y, lw=1.4, ms=4, label=label(i), **stream_style(i, most))


def _token_mean(values: np.ndarray) -> np.ndarray:
  """Returns the mean over tokens, `[..., n]` to `[n]`, ignoring NaN."""
  return np.array([np.nanmean(values[..., i]) for i in range(values.shape[-1])])


def log_scale(ax: Axes) -> None:
  """Makes the y axis logarithmic, with plain numbers; minor ticks get some only on short axes."""
  ax.set_yscale("log")
  low, high = ax.get_ylim()
  ax.yaxis.set_major_formatter("{x:g}")
  ax.yaxis.set_minor_formatter("{x:.2g}" if high < 10 * low else "")


def _band(ax, x: np.ndarray, values: Sequence[np.ndarray]) -> None:
  """Draws median and 5th to 95th percentile over tokens, at sites that have any finite value."""
  known = [k for k, v in enumerate(values) if np.isfinite(v).any()]
  found = [np.nanpercentile(values[k], (5, 50, 95)) for k in known]
  low, middle, high = np.reshape(found, (-1, 3)).T
  ax.fill_between(x[known], low, high, color=COLORS[0], alpha=0.25, lw=0, label="5th to 95th %")
  ax.plot(x[known], middle, "o-", color=COLORS[0], lw=1.4, ms=4, label="median over tokens")
