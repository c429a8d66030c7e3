"""Statistics over seeds: mean, spread, and the paired difference with its interval."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
  """A paired difference, arm minus baseline, over the same seeds.

  Attributes:
    by_seed: difference for each seed.
    mean: mean of the differences.
    half_width: half width of the interval `mean ± half_width`; None with fewer than two seeds.
  """

  by_seed: tuple[float, ...]
  mean: float
  half_width: float | None

  @property
  def low(self) -> float:
    """Returns the lower end of the interval; -inf without one."""
    return self.mean - (math.inf if self.half_width is None else self.half_width)

  @property
  def high(self) -> float:
    """Returns the upper end of the interval; inf without one."""
    return self.mean + (math.inf if self.half_width is None else self.half_width)


def paired_difference(arm: Sequence[float], baseline: Sequence[float]) -> Difference:
  """Computes arm minus baseline for each seed, and Student's 95 % interval of the mean.

  Args:
    arm: one number for each seed.
    baseline: one number for each seed, in the same order.

  Raises:
    ValueError: if the lengths differ or are zero.
  """
  if len(arm) != len(baseline) or not len(arm):
    raise ValueError(f"paired_difference needs equal lengths, not {len(arm)} and {len(baseline)}")
  differences = np.subtract(arm, baseline, dtype=np.float64)
  half = None
  if len(arm) > 1:
    half = t_quantile(len(arm) - 1) * differences.std(ddof=1) / math.sqrt(len(arm))
  return Difference(tuple(map(float, differences)), float(differences.mean()), half)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
  """Returns mean and standard deviation (n - 1); the latter is None with fewer than two values."""
  array = np.asarray(values, np.float64)
  return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def t_quantile(freedom: int, level: float = LEVEL) -> float:
  """Returns the t for which Student's distribution has `level` of its mass between -t and t.

  Args:
    freedom: degrees of freedom, 1 or more.
    level: probability of the interval, between 0 and 1.
  """
  return float(stdtrit(freedom, (1 + level) / 2))
