"""Figures of metrics.jsonl against optimizer steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hc_jax.analysis.plots.depth import FLOOR, log_scale
from hc_jax.analysis.plots.style import COLORS, stream_style, subplots

# Curves of `telemetry` by key of metrics.jsonl: label, colour, line.
GAINS = {
  "hc/amax_fwd": ("Amax forward", COLORS[0], "o-"),
  "hc/amax_bwd": ("Amax backward", COLORS[1], "s-"),
  "hc/gain_fwd": ("norm forward", COLORS[0], "^:"),
  "hc/gain_bwd": ("norm backward", COLORS[1], "v:"),
}
MAPS = {
  "hc/offdiag": ("off-diagonal mass of the mixes", COLORS[2], "D-"),
  "hc/dynamic_ratio": ("dynamic part / mean of the maps", COLORS[3], "P--"),
}


def loss_curve(rows: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
  """Draws training and validation loss against steps.

  Args:
    rows: rows of metrics.jsonl, with `step` and some of `train/loss` and `val/loss` (nats per
      token) and `val/bpb` (bits per byte).
    title: title above the figure.
  """
  fig, ax = subplots(figsize=(7, 4.2))
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


def telemetry(rows: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
  """Draws the connections during training: gains of the composite, energies, mixing.

  Args:
    rows: rows of metrics.jsonl, with `step` and some `hc/*` keys (docs/analysis.md). A panel
      without any number is not drawn.
    title: title above the figure.
  """
  last = {key: value for row in rows for key, value in row.items()}
  shares = sorted((k for k in last if k.startswith("hc/energy_share_")), key=lambda k: (len(k), k))
  energy = {}
  for i, key in enumerate(shares):
    style = stream_style(i, len(shares))
    energy[key] = (f"stream {i}", style["color"], style["marker"] + "-")
  panels = [
    ("gains of all mixes together", "gain (no unit)", True, GAINS),
    ("energy that the last site reads", "share of the energy", False, energy),
    ("maps", "no unit", False, MAPS),
  ]
  panels = [panel for panel in panels if any(key in last for key in panel[-1])]
  count = max(1, len(panels))
  fig, axes = subplots(1, count, figsize=(4.6 * count, 4.0), squeeze=False)
  fig.suptitle(title)
  for ax, (name, label, log, curves) in zip(axes[0], panels, strict=False):
    for key, (text, color, line) in curves.items():
      known = [(row["step"], row[key]) for row in rows if key in row]
      if not known:
        continue
      steps, y = zip(*known, strict=True)
      y = [max(value, FLOOR) for value in y] if log else y
      line = line if len(steps) <= 60 else line[1:]
      ax.plot(steps, y, line, color=color, lw=1.4, ms=4, label=text, fillstyle="none")
    if log:
      log_scale(ax)
    else:
      ax.set_ylim(0, 1.08 * ax.dataLim.y1)
    ax.set(xlabel="optimizer step", ylabel=label, title=name)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize=8)
  return fig
