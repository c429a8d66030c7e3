"""Pictures of a report and their captions."""

import os
from collections.abc import Sequence

import numpy as np

from hc_jax.ablate.reporting import summary
from hc_jax.ablate.reporting.document import Picture
from hc_jax.ablate.reporting.origin import busy
from hc_jax.ablate.reporting.summary import Arm
from hc_jax.ablate.running.records import Result
from hc_jax.ablate.sweep import Sweep
from hc_jax.analysis import plots


def draw(
  out: str, sweep: Sweep, arms: Sequence[Arm], results: Sequence[Result]
) -> dict[str, Picture]:
  """Draws the pictures that the results allow, and returns them by name.

  Arms in which a seed diverged are left out.
  """
  whole = [arm for arm in arms if not arm.diverged and arm.finals]
  baseline = next((arm for arm in whole if arm.is_baseline), None)
  others = [arm for arm in whole if arm.difference is not None]
  made = {}
  # A single evaluation gives a point, which is not worth a figure.
  if len(whole) and len(whole[0].result.curves[0].val["step"]) > 1:
    made["loss"] = _loss(out, sweep, whole)
    if baseline is not None and others:
      made["difference_over_time"] = _over_time(out, sweep, baseline, others)
  if baseline is not None and others:
    made["differences"] = _finals(out, sweep, others)
    made["smoothed"] = _smoothed(out, sweep, baseline, others)
  if sweep.learning_rates:
    made |= _rates(out, sweep, results)
  return made


def _save(out: str, name: str, figure, caption: str) -> Picture:
  plots.save(figure, os.path.join(out, name), formats=("png",))
  return Picture(f"{name}.png", caption)


def curves(sweep: Sweep, arm: Arm) -> plots.ArmCurves:
  """Returns the validation losses of an arm, against steps, tokens, FLOPs and seconds."""
  runs, costs = arm.result.curves, arm.result.costs
  steps = np.array(runs[0].val["step"])
  tokens = steps * sweep.base.train.batch_size * sweep.base.data.length
  x = {"steps": steps, "tokens": tokens}
  if costs["flops_per_token"]:
    x["flops"] = tokens * costs["flops_per_token"]
  if costs["step_seconds"]:  # the median step, because other programs disturb the wall-clock
    x["seconds"] = steps * costs["step_seconds"]
  return plots.ArmCurves(arm.name, x, np.array([run.val["loss"] for run in runs]))


def _loss(out: str, sweep: Sweep, arms: Sequence[Arm]) -> Picture:
  together = arms[0].result.costs["together"]
  figure = plots.loss_against_cost(
    [curves(sweep, arm) for arm in arms], "Validation loss against what it cost", together
  )
  return _save(
    out,
    "loss",
    figure,
    "Validation loss: mean over seeds, band ± one standard deviation. The first tenth of the steps "
    f"is cut off above. Seconds are steps times the median step of {together}."
    + " Other programs ran at the same time, so that seconds mean little."
    * bool(busy([arm.result for arm in arms])),
  )


def _over_time(out: str, sweep: Sweep, baseline: Arm, others: Sequence[Arm]) -> Picture:
  figure = plots.loss_difference(
    [curves(sweep, arm) for arm in others],
    curves(sweep, baseline),
    f"Difference to {baseline.name} over training",
  )
  return _save(
    out,
    "difference_over_time",
    figure,
    f"Validation loss minus {baseline.name}'s for the same seed: mean over seeds, and band from "
    "the least to the greatest. Below zero the arm is better.",
  )


def _finals(out: str, sweep: Sweep, others: Sequence[Arm]) -> Picture:
  differences = [arm.difference for arm in others if arm.difference is not None]
  figure = plots.final_differences(
    [arm.name for arm in others],
    [found.by_seed for found in differences],
    [None if found.half_width is None else (found.low, found.high) for found in differences],
    sweep.baseline_arm,
    f"Final difference to {sweep.baseline_arm}, paired by seed",
  )
  return _save(
    out,
    "differences",
    figure,
    f"Final validation loss minus {sweep.baseline_arm}'s for the same seed. An interval that "
    "includes zero shows no difference.",
  )


def _smoothed(out: str, sweep: Sweep, baseline: Arm, others: Sequence[Arm]) -> Picture:
  step = sweep.base.train.batch_size * sweep.base.data.length
  steps = np.array(baseline.result.curves[0].train["step"])
  arms = [baseline, *others]
  figure = plots.smoothed_losses(
    [arm.name for arm in arms],
    steps * step,
    [summary.smoothed(arm.result).mean(axis=0) for arm in arms],
    [None if arm.factor is None else steps[-1] * step / arm.factor for arm in arms],
    f"Where an arm reaches {baseline.name}'s final loss",
  )
  return _save(
    out,
    "smoothed",
    figure,
    "Training loss, exponential moving average of 0.99 per step, mean over seeds. A marker shows "
    f"where an arm first falls to {baseline.name}'s last value.",
  )


def _rates(out: str, sweep: Sweep, results: Sequence[Result]) -> dict[str, Picture]:
  names, rates, losses = [], [], []
  for name in sweep.arms:
    whole = [
      r for r in results if r.group.arm == name and all(c.diverged is None for c in r.curves)
    ]
    if whole:
      whole.sort(key=lambda r: r.group.learning_rate)
      names.append(name)
      rates.append([r.group.learning_rate for r in whole])
      losses.append([np.array([c.final for c in r.curves]) for r in whole])
  if not names:
    return {}
  figure = plots.learning_rates(names, rates, losses, "Final loss against the learning rate")
  caption = (
    "Final validation loss by learning rate: mean over seeds, bars ± one standard deviation."
  )
  return {"rates": _save(out, "rates", figure, caption)}
