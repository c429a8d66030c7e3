"""Figures of the maps of each site (read, write, mix) and their spread over tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hc_jax.analysis.plots.style import (
  GREY,
  SIGNED,
  bound_of,
  short,
  site_ticks,
  stream_style,
  subplots,
  write_numbers,
)
from hc_jax.coefs import Coefs

MAX_SITES = 64
MAPS = {"read": "stream into branch", "write": "branch into stream", "mix": "stream into stream"}


def connection_weights(sites: Mapping[str, Coefs], title: str = "") -> Figure:
  """Draws the read, write and mix of each site; the mix minus the identity.

  Args:
    sites: token means of the maps by site (`token_mean`), in the order of the forward pass. The
      first 64 sites are drawn, with a row for each slot of a read and each fraction of a write.
      Sites may differ in their number of streams.
    title: title above the figure.
  """
  names = list(sites)[:MAX_SITES]
  coefs = [sites[name] for name in names]
  labels = [short(name) for name in names]
  reads = _rows([c.read for c in coefs], labels)
  writes = _rows([c.write.T for c in coefs], labels)
  columns = min(len(names), 8)
  rows, tall = -(-len(names) // columns), 0.26 * max(len(reads[1]), len(writes[1]))
  fig = Figure(figsize=(11, 2.2 + tall + 1.5 * rows), layout="constrained")
  top, bottom = fig.subfigures(2, 1, height_ratios=[1.6 + tall, 0.6 + 1.5 * rows])
  fig.suptitle(title)

  axes = top.subplots(1, 2)
  _matrix(axes[0], reads[0], "read: stream into branch", reads[1])
  _matrix(axes[1], writes[0], "write: branch into stream", writes[1])
  for ax in axes:
    ax.set_xlabel("stream")
    top.colorbar(ax.images[0], ax=ax, shrink=0.9, label="weight (no unit)")

  mixes = [c.mix - np.eye(len(c.mix)) for c in coefs]
  bound = bound_of(*mixes)
  grid = np.atleast_1d(bottom.subplots(rows, columns, squeeze=False)).ravel()
  for ax, mix, label in zip(grid, mixes, labels, strict=False):
    ax.imshow(mix, cmap=SIGNED, vmin=-bound, vmax=bound)
    if len(mix) <= 4:
      write_numbers(ax, mix, size=5.5)
    ax.set_title(label, fontsize=8)
    ax.set(xticks=range(len(mix)), yticks=range(len(mix)))
    ax.tick_params(labelsize=7)
  for ax in grid[len(names) :]:
    ax.set_visible(False)
  bottom.suptitle("mix minus identity: from stream (column) into stream (row)", fontsize=10)
  bottom.colorbar(grid[0].images[0], ax=list(grid), shrink=0.8, label="mix − identity")
  return fig


def weight_distributions(sites: Mapping[str, Coefs], title: str = "") -> Figure:
  """Draws the spread of each site's weights over tokens (arXiv 2409.19606, Figure 12).

  A marker is the median of one weight; its line runs from the 5th to the 95th percentile. For the
  mix, each diagonal entry has a marker, and all other entries share one.

  Args:
    sites: maps with token axes by site (`collect_coefs`), in the order of the forward pass.
    title: title above the figure.
  """
  labels = [short(name) for name in sites]
  fig, axes = subplots(3, 1, figsize=(11, 9), sharex=True)
  fig.suptitle(title)
  most = max(c.read.shape[-1] for c in sites.values())
  for ax, (name, what) in zip(axes, MAPS.items(), strict=True):
    series = [_series(coefs, name) for coefs in sites.values()]
    width = 0.8 / (most + (name == "mix"))
    for i in range(most + (name == "mix")):
      style = stream_style(i, most) if i < most else {"color": GREY, "marker": "x"}
      label = f"stream {i}" if i < most else "between streams"
      found = [(k, s[i]) for k, s in enumerate(series) if i in s]
      if not found:
        continue
      low, mid, high = np.array([np.percentile(v, (5, 50, 95)) for _, v in found]).T
      at = np.array([k for k, _ in found]) - 0.4 + (i + 0.5) * width
      ax.errorbar(at, mid, (mid - low, high - mid), ls="none", ms=4, lw=1.4, label=label, **style)
    ax.set_title(f"{name}: {what}" + (", stream i into itself" * (name == "mix")), fontsize=10)
    ax.set_ylabel("weight (no unit)")
    ax.grid(alpha=0.3)
  handles = axes[-1].get_legend_handles_labels()
  fig.legend(*handles, loc="outside lower center", frameon=False, ncols=min(most + 1, 9))
  site_ticks(axes[-1], labels, most=48)
  axes[-1].set_xlabel("site: block and branch")
  return fig


def _series(coefs: Coefs, name: str) -> dict[int, np.ndarray]:
  """Returns all values of one map by stream, slots pooled; key n has the mix off its diagonal."""
  n = coefs.read.shape[-1]
  if name == "read":
    return {i: coefs.read[..., i].ravel() for i in range(n)}
  if name == "write":
    return {i: coefs.write[..., i, :].ravel() for i in range(n)}
  if coefs.mix is None:
    return {}
  found = {i: coefs.mix[..., i, i].ravel() for i in range(n)}
  off = coefs.mix[..., ~np.eye(n, dtype=bool)].ravel()
  return found | ({n: off} if off.size else {})


def _rows(parts: Sequence[np.ndarray], labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
  """Stacks matrices `[rows, n]` of all sites, NaN for missing streams; returns row labels too."""
  width = max(part.shape[-1] for part in parts)
  padded = [
    np.pad(part, ((0, 0), (0, width - part.shape[-1])), constant_values=np.nan) for part in parts
  ]
  names = [
    label if len(part) == 1 else f"{label} [{i}]"
    for label, part in zip(labels, parts, strict=True)
    for i in range(len(part))
  ]
  return np.concatenate(padded), names


def _matrix(ax: Any, values: np.ndarray, title: str, labels: Sequence[str]) -> None:
  bound = bound_of(values)
  ax.imshow(values, cmap=SIGNED, vmin=-bound, vmax=bound, aspect="auto")
  ax.set_title(title, fontsize=10)
  ax.set(xticks=range(values.shape[1]), yticks=range(len(labels)))
  ax.set_yticklabels(labels, fontsize=7)
  if values.size <= 200:
    write_numbers(ax, values)
