"""Convergence factor: how much sooner an arm reaches the final loss of the baseline."""

from collections.abc import Sequence

import numpy as np

DECAY = 0.99  # per step, as in the training curves of the paper (arXiv 2409.19606)


def ema(steps: Sequence[int], losses: Sequence[float], decay: float = DECAY) -> np.ndarray:
  """Computes the exponential moving average of a curve, corrected for its start.

  If k steps passed since the row before, the row counts as k steps with its loss.

  Args:
    steps: step of each row, rising, at least 1.
    losses: loss of each row.
    decay: decay of one step.

  Returns:
    `[rows]` float64.
  """
  smooth, weight, last, out = 0.0, 0.0, 0, []
  for step, loss in zip(steps, losses, strict=True):
    keep = decay ** (step - last)
    smooth, weight, last = keep * smooth + (1 - keep) * loss, keep * weight + (1 - keep), step
    out.append(smooth / weight)
  return np.array(out)


def first_at_or_below(steps: Sequence[int], curve: Sequence[float], target: float) -> float | None:
  """Returns the step at which a curve first falls to `target`, or None if it never does.

  Between two rows the curve is a straight line.
  """
  below = np.flatnonzero(np.asarray(curve) <= target)
  if not below.size:
    return None
  i = int(below[0])
  if i == 0:
    return float(steps[0])
  share = (curve[i - 1] - target) / (curve[i - 1] - curve[i])
  return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def convergence_factor(
  steps: Sequence[int], arm: Sequence[float], baseline: Sequence[float]
) -> float | None:
  """Computes the steps of the baseline over the steps that an arm needs for its final loss.

  Args:
    steps: steps of the rows of both curves.
    arm: smoothed losses of the arm.
    baseline: smoothed losses of the baseline.

  Returns:
    1.8 if the arm reaches the baseline's final loss in 1/1.8 of the steps; None if it never does.
  """
  at = first_at_or_below(steps, arm, baseline[-1])
  return None if at is None else steps[-1] / at
