"""Figures of the arms of an ablation: loss against cost, differences, smoothed curves."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from hc_jax.analysis.plots.style import GREY, stream_style, subplots

AXES = {
  "steps": "optimizer steps",
  "tokens": "training tokens of a run",
  "flops": "training FLOPs of a run",
  "seconds": "seconds of training",
}
LOSS = "validation loss (nats per token)"
DASHES = ("-", "--", "-.", ":")  # for curves that use markers for something else


@dataclasses.dataclass(frozen=True)
class ArmCurves:
  """The loss curves of one arm.

  Attributes:
    name: name in the legend.
    x: positions `[T]` by key of `AXES`; keys that are not known are absent.
    loss: validation loss `[S, T]` of S seeds, nats per token.
  """

  name: str
  x: Mapping[str, np.ndarray]
  loss: np.ndarray


def loss_against_cost(arms: Sequence[ArmCurves], title: str = "", seconds: str = "") -> Figure:
  """Draws validation loss against steps, tokens, FLOPs and seconds: mean over seeds, band ± sd.

  Args:
    arms: arms in the order of the legend; an axis that some arm lacks is not drawn.
    title: title above the figure.
    seconds: note below the axis of seconds, such as the machine.
  """
  known = [key for key in AXES if all(key in arm.x for arm in arms)]
  fig, axes = subplots(2, 2, figsize=(11, 8), sharey=True)
  fig.suptitle(title)
  for ax, key in zip(axes.ravel(), known, strict=False):
    for i, arm in enumerate(arms):
      style = stream_style(i, len(arms))
      mean, sd = arm.loss.mean(axis=0), arm.loss.std(axis=0, ddof=len(arm.loss) > 1)
      ax.plot(arm.x[key], mean, lw=1.5, ms=3.5, label=arm.name, **style)
      ax.fill_between(arm.x[key], mean - sd, mean + sd, color=style["color"], alpha=0.15, lw=0)
    ax.set_xlabel(AXES[key] + (f"\n{seconds}" if key == "seconds" and seconds else ""))
    ax.grid(alpha=0.3)
    ax.set_xlim(0, None)
    ax.xaxis.set_major_formatter(_short_numbers())
  for ax in axes[:, 0]:
    ax.set_ylabel(LOSS)
  for ax in axes.ravel()[len(known) :]:
    ax.set_visible(False)
  axes[0, 0].set_ylim(*_late(arms))
  _legend(fig, axes[0, 0], len(arms))
  return fig


def loss_difference(
  arms: Sequence[ArmCurves], baseline: ArmCurves, title: str = "", skip: float = 0.05
) -> Figure:
  """Draws loss minus the baseline's loss for the same seed: mean, and band from least to most.

  Args:
    arms: arms except the baseline, with the same seeds in the same order.
    baseline: arm that is subtracted.
    title: title above the figure.
    skip: share of the tokens left out at the start, where differences are large.
  """
  fig, ax = subplots(figsize=(8, 4.6))
  tokens = baseline.x["tokens"]
  late = tokens >= skip * tokens[-1]
  for i, arm in enumerate(arms, 1):
    style = stream_style(i, len(arms) + 1)
    difference = (arm.loss - baseline.loss)[:, late]
    ax.plot(tokens[late], difference.mean(axis=0), lw=1.6, ms=4, label=arm.name, **style)
    low, high = difference.min(axis=0), difference.max(axis=0)
    ax.fill_between(tokens[late], low, high, color=style["color"], alpha=0.15, lw=0)
  ax.axhline(0, color=GREY, lw=1, zorder=0)
  ax.xaxis.set_major_formatter(_short_numbers())
  ax.set(xlabel=AXES["tokens"], title=title)
  ax.set_ylabel(f"validation loss minus {baseline.name}'s\n(nats per token)")
  ax.grid(alpha=0.3)
  _legend(fig, ax, len(arms))
  return fig


def final_differences(
  names: Sequence[str],
  by_seed: Sequence[Sequence[float]],
  intervals: Sequence[tuple[float, float] | None],
  baseline: str,
  title: str = "",
) -> Figure:
  """Draws each arm's final difference to the baseline: a dot a seed, mean and 95 % interval.

  Args:
    names: names of the arms except the baseline.
    by_seed: differences of each arm, nats per token, one number a seed.
    intervals: 95 % interval of each arm's mean; None draws neither mean nor interval.
    baseline: name of the baseline.
    title: title above the figure.
  """
  fig, ax = subplots(figsize=(8, 1.6 + 0.5 * len(names)))
  for i, (values, interval) in enumerate(zip(by_seed, intervals, strict=True)):
    color = stream_style(i + 1, len(names) + 1)["color"]
    ax.plot(values, np.full(len(values), i), "o", ms=4, color=color, alpha=0.5)
    mean = float(np.mean(values))
    if interval is not None:
      error = [[mean - interval[0]], [interval[1] - mean]]
      ax.errorbar(mean, i, xerr=error, fmt="D", ms=6, capsize=5, color=color, lw=1.8)
  ax.axvline(0, color=GREY, lw=1, zorder=0)
  ax.set_yticks(range(len(names)), names)
  ax.set_ylim(len(names) - 0.5, -0.5)
  ax.set_xlabel(
    f"final validation loss minus {baseline}'s (nats per token); left is better\n"
    "dots: seeds; diamond: mean with 95 % interval"
  )
  ax.set_title(title)
  ax.grid(alpha=0.3, axis="x")
  return fig


def smoothed_losses(
  names: Sequence[str],
  tokens: np.ndarray,
  losses: Sequence[np.ndarray],
  reached: Sequence[float | None],
  title: str = "",
) -> Figure:
  """Draws smoothed training losses, and marks where each arm reaches the baseline's final loss.

  Args:
    names: names of the arms, the baseline first.
    tokens: training tokens `[T]`.
    losses: smoothed loss `[T]` of each arm, nats per token.
    reached: tokens at which each arm reaches the baseline's final loss; None if it never does.
    title: title above the figure.
  """
  fig, ax = subplots(figsize=(8, 4.6))
  target = losses[0][-1]
  for i, (name, loss, at) in enumerate(zip(names, losses, reached, strict=True)):
    style = stream_style(i, len(names))
    ax.plot(tokens, loss, DASHES[i % len(DASHES)], lw=1.5, color=style["color"], label=name)
    if i and at is not None:
      ax.plot(at, target, ms=8, zorder=3, markeredgecolor="white", **style)
  ax.axhline(target, color=GREY, lw=1, ls="--", zorder=0)
  ax.annotate(
    f"where {names[0]} ends", (tokens[0], target), xytext=(4, 4), textcoords="offset points",
    fontsize=9, color=GREY,
  )  # fmt: skip
  start = np.searchsorted(tokens, 0.1 * tokens[-1])
  top = max(loss[start] for loss in losses)
  bottom = min(loss.min() for loss in losses)
  ax.set_ylim(bottom - 0.04 * (top - bottom), top)
  ax.xaxis.set_major_formatter(_short_numbers())
  ax.set(xlabel=AXES["tokens"], ylabel="training loss, EMA 0.99 (nats per token)", title=title)
  ax.grid(alpha=0.3)
  _legend(fig, ax, len(names))
  return fig


def learning_rates(
  names: Sequence[str],
  rates: Sequence[Sequence[float]],
  losses: Sequence[Sequence[np.ndarray]],
  title: str = "",
) -> Figure:
  """Draws final validation loss against the learning rate: mean over seeds, bars ± sd.

  Args:
    names: names of the arms.
    rates: learning rates of each arm, in rising order.
    losses: losses `[S]` of the S seeds, for each rate of each arm.
    title: title above the figure.
  """
  fig, ax = subplots(figsize=(8, 4.6))
  for i, (name, x, values) in enumerate(zip(names, rates, losses, strict=True)):
    mean = [v.mean() for v in values]
    sd = [v.std(ddof=len(v) > 1) for v in values]
    ax.errorbar(x, mean, sd, lw=1.5, ms=5, capsize=3, label=name, **stream_style(i, len(names)))
  ax.set_xscale("log")
  every = sorted({rate for x in rates for rate in x})
  ax.set_xticks(every, [f"{rate:g}" for rate in every])
  ax.minorticks_off()
  ax.set(xlabel="learning rate at its peak", ylabel=f"final {LOSS}", title=title)
  ax.grid(alpha=0.3)
  _legend(fig, ax, len(names))
  return fig


def _late(arms: Sequence[ArmCurves]) -> tuple[float, float]:
  """Returns y limits that fit the curves after the first tenth of the steps."""
  means = [arm.loss.mean(axis=0) for arm in arms]
  starts = [np.searchsorted(arm.x["steps"], 0.1 * arm.x["steps"][-1]) for arm in arms]
  top = max(mean[start] for mean, start in zip(means, starts, strict=True))
  bottom = min(mean.min() for mean in means)
  pad = 0.04 * (top - bottom)
  return float(bottom - pad), float(top + pad)


def _short_numbers() -> EngFormatter:
  """Returns a formatter that writes 1500000 as `1.5M`."""
  return EngFormatter(sep="")


def _legend(fig: Figure, ax: Any, count: int) -> None:
  handles = ax.get_legend_handles_labels()
  fig.legend(*handles, loc="outside lower center", frameon=False, ncols=min(count, 6))
