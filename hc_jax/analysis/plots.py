"""Pictures: one function per figure, each returns the figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("agg", force=False)  # a display is not needed to write files
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from hc_jax.coefs import Coefs

COLORS = ("#0072B2", "#D55E00", "#009E73")  # told apart without red and green
SIGNED, MAX_SITES = "PuOr_r", 64


def loss_curve(rows: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
  """Training and validation loss against steps.

  Args:
    rows: of metrics.jsonl, with `step`, `train/loss` in nats per token and perhaps `val/bpb`.
    title: above the figure.
  """
  fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
  train = [(r["step"], r["train/loss"]) for r in rows if "train/loss" in r]
  val = [(r["step"], r["val/loss"]) for r in rows if "val/loss" in r]
  if train:
    ax.plot(*zip(*train, strict=True), color=COLORS[0], lw=1.2, label="training")
  if val:
    last = next(r for r in reversed(rows) if "val/loss" in r)
    label = f"validation, {last['val/loss']:.3f} at step {last['step']:,}"
    if np.isfinite(last.get("val/bpb", np.nan)):
      label += f" ({last['val/bpb']:.3f} bits per byte)"
    ax.plot(*zip(*val, strict=True), "o-", color=COLORS[1], lw=1.6, ms=5, label=label)
  ax.set(xlabel="optimizer step", ylabel="loss (nats per token)", title=title)
  ax.grid(alpha=0.3)
  if train or val:
    ax.legend(frameon=False)
  return fig


def connection_weights(sites: Mapping[str, Coefs], title: str = "") -> Figure:
  """What each site reads, writes and mixes.

  Args:
    sites: token means by site, in the order of the forward pass; the first 64 are drawn. A site
      has a row for each slot of its read and each fraction of its write; sites may differ in their
      number of streams.
    title: above the figure.
  """
  names = list(sites)[:MAX_SITES]
  coefs = [sites[name] for name in names]
  labels = [_short(name) for name in names]
  reads = _rows([c.read for c in coefs], labels)
  writes = _rows([c.write.T for c in coefs], labels)
  columns = min(len(names), 8)
  rows, tall = -(-len(names) // columns), 0.26 * max(len(reads[1]), len(writes[1]))
  fig = plt.figure(figsize=(11, 2.2 + tall + 1.5 * rows), layout="constrained")
  top, bottom = fig.subfigures(2, 1, height_ratios=[1.6 + tall, 0.6 + 1.5 * rows])
  fig.suptitle(title)

  axes = top.subplots(1, 2)
  _matrix(axes[0], reads[0], "read: stream into branch", reads[1])
  _matrix(axes[1], writes[0], "write: branch into stream", writes[1])
  for ax in axes:
    ax.set_xlabel("stream")
    top.colorbar(ax.images[0], ax=ax, shrink=0.9)

  mixes = [c.mix - np.eye(len(c.mix)) for c in coefs]
  bound = max(*(float(np.abs(mix).max()) for mix in mixes), 1e-6)
  grid = np.atleast_1d(bottom.subplots(rows, columns, squeeze=False)).ravel()
  for ax, mix, label in zip(grid, mixes, labels, strict=False):
    ax.imshow(mix, cmap=SIGNED, vmin=-bound, vmax=bound)
    ax.set_title(label, fontsize=8)
    ax.set(xticks=range(len(mix)), yticks=range(len(mix)))
    ax.tick_params(labelsize=7)
  for ax in grid[len(names) :]:
    ax.set_visible(False)
  bottom.suptitle("mix minus identity: from stream (column) into stream (row)", fontsize=10)
  bottom.colorbar(grid[0].images[0], ax=list(grid), shrink=0.8)
  return fig


def _rows(parts: Sequence[np.ndarray], labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
  """Matrices `[rows, n]` of all sites one above the other, NaN where a site has no such stream."""
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
  bound = max(float(np.nanmax(np.abs(values))), 1e-6)
  ax.imshow(values, cmap=SIGNED, vmin=-bound, vmax=bound, aspect="auto")
  ax.set_title(title, fontsize=10)
  ax.set(xticks=range(values.shape[1]), yticks=range(len(labels)))
  ax.set_yticklabels(labels, fontsize=7)
  if values.size <= 200:
    for i, j in np.argwhere(np.isfinite(values)):
      color = "white" if abs(values[i, j]) > 0.6 * bound else "black"
      ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color=color)


def _short(site: str) -> str:
  """`stack/layer_3/attn_connection` -> `3 attn`."""
  parts = [p for p in site.split("/") if p not in ("stack", "coefs")]
  parts = [p for p in parts if not p.startswith("segment_")]
  return " ".join(p.removesuffix("_connection").removeprefix("layer_") for p in parts) or site
