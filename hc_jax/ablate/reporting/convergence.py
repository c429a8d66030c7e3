"""How much sooner an arm gets where the baseline ends: smoothed curves and their factor."""

from collections.abc import Sequence

import numpy as np

DECAY = 0.99  # a step, as the paper smooths its training curves


def ema(steps: Sequence[int], losses: Sequence[float], decay: float = DECAY) -> np.ndarray:
  """The exponential moving average of a curve, at each of its rows, without the start's bias.

  A row that stands for k steps counts as k steps of that loss.

  Args:
    steps: of the rows, rising, from 1 on.
    losses: at them.
    decay: of one step.

  Returns:
    float64, one for each row.
  """
  smooth, weight, last, out = 0.0, 0.0, 0, []
  for step, loss in zip(steps, losses, strict=True):
    keep = decay ** (step - last)
    smooth, weight, last = keep * smooth + (1 - keep) * loss, keep * weight + (1 - keep), step
    out.append(smooth / weight)
  return np.array(out)


def first_at_or_below(steps: Sequence[int], curve: Sequence[float], target: float) -> float | None:
  """The step at which a curve first comes down to `target`, between its rows on a straight line.

  Returns:
    None if it never does.
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
  """Steps of the baseline over the steps that an arm needs for the baseline's final loss.

  Args:
    steps: of the rows of both.
    arm: its smoothed losses.
    baseline: its smoothed losses.

  Returns:
    1.8 for an arm that gets there in 1/1.8 of the steps; None for one that never does.
  """
  at = first_at_or_below(steps, arm, baseline[-1])
  return None if at is None else steps[-1] / at
