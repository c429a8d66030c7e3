"""Loss against steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from hc_jax.analysis.plots.style import COLORS


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
