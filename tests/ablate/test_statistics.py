"""Tests of intervals, smoothed curves and convergence factors, against tables and by hand."""

import numpy as np
import pytest

from hc_jax.ablate.reporting.convergence import convergence_factor, ema, first_at_or_below
from hc_jax.ablate.reporting.statistics import mean_and_sd, paired_difference, t_quantile


@pytest.mark.parametrize(
  "freedom, t",  # two-sided 95 %, from textbook tables
  [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)],
)
def test_students_quantiles(freedom, t):
  assert t_quantile(freedom) == pytest.approx(t, abs=6e-4)


def test_a_paired_difference_by_hand():
  found = paired_difference([2.0, 3.0, 4.0], [2.1, 3.3, 4.2])
  assert found.by_seed == pytest.approx((-0.1, -0.3, -0.2))
  assert found.mean == pytest.approx(-0.2)
  assert found.half_width == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-6)
  assert (found.low, found.high) == pytest.approx((-0.448414, 0.048414), abs=1e-5)


def test_pairing_is_what_makes_a_small_difference_seen():
  seeds = np.array([0.0, 5.0, 9.0])  # seeds differ by far more than arms
  found = paired_difference(seeds - [0.1, 0.11, 0.09], seeds)
  assert found.high < 0 and mean_and_sd(seeds)[1] > 4


def test_one_seed_has_no_interval_and_no_spread():
  found = paired_difference([1.0], [2.0])
  assert found.half_width is None and found.low < -1e9 and found.high > 1e9
  assert mean_and_sd([3.0]) == (3.0, None)
  with pytest.raises(ValueError, match="needs equal lengths"):
    paired_difference([1.0, 2.0], [1.0])


def test_the_moving_average_is_the_one_of_every_step():
  losses = np.array([5.0, 4.0, 4.5, 3.0])
  smooth = bias = 0.0
  for i, loss in enumerate(losses, 1):
    smooth, bias = 0.9 * smooth + 0.1 * loss, 1 - 0.9**i
  assert ema([1, 2, 3, 4], losses, 0.9)[-1] == pytest.approx(smooth / bias)
  # a row after two steps counts as two steps with its loss
  every = ema([1, 2, 3], [5.0, 4.0, 4.0], 0.9)
  assert ema([1, 3], [5.0, 4.0], 0.9)[-1] == pytest.approx(every[-1])
  assert ema([1, 2], [2.0, 2.0])[0] == pytest.approx(2.0)  # no bias of the start towards zero


def test_the_convergence_factor():
  steps = [10, 20, 30, 40]
  baseline = [4.0, 3.0, 2.5, 2.0]
  assert convergence_factor(steps, [3.0, 2.0, 1.5, 1.0], baseline) == pytest.approx(2.0)
  assert convergence_factor(steps, [4.0, 3.0, 2.25, 1.75], baseline) == pytest.approx(40 / 35)
  assert convergence_factor(steps, [4.0, 3.0, 2.6, 2.1], baseline) is None
  assert first_at_or_below(steps, [1.0, 1.0, 1.0, 1.0], 2.0) == 10
