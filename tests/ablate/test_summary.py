"""Tests that an arm is judged by the right results: rates, pairs of seeds, costs, by hand."""

import dataclasses

import pytest

from hc_jax.ablate.reporting.summary import (
  at_own_best,
  at_shared_rate,
  compare,
  convergence_in_words,
  cost_ratio,
)
from hc_jax.ablate.sweep import Group
from tests.ablate.conftest import result

RATES = (0.001, 0.01, 0.1)


@pytest.fixture
def results_of(make_sweep):
  """Returns `results_of({rate: finals}, diverged={rate: steps})`: a sweep and its results."""

  def make(finals, diverged=None):
    sweep = make_sweep(seeds=(0, 1), learning_rates=RATES)
    made = [
      result(group, finals[group.learning_rate], (diverged or {}).get(group.learning_rate, ()))
      for group in sweep.groups()
    ]
    return sweep, made

  return make


def rates(results):
  return {r.group.arm: r.group.learning_rate for r in results}


def test_the_best_rate_of_an_arm_has_the_lowest_mean_not_the_luckiest_seed(results_of):
  # The lowest single loss is at 0.1, the lowest worst seed at 0.001, the lowest mean at 0.01.
  sweep, made = results_of({0.001: [2.2, 2.2], 0.01: [1.9, 2.3], 0.1: [1.0, 3.8]})
  assert rates(at_own_best(sweep, made)) == {"residual": 0.01, "dhc2": 0.01}
  # The last loss counts, in whatever order the seeds come.
  sweep, made = results_of({0.001: [2.5, 1.0], 0.01: [1.7, 1.9], 0.1: [3.0, 1.9]})
  assert rates(at_own_best(sweep, made)) == {"residual": 0.001, "dhc2": 0.001}


def test_a_rate_at_which_one_seed_diverged_is_never_chosen(results_of):
  sweep, made = results_of(
    {0.001: [3.0, 3.0], 0.01: [1.0, 1.0], 0.1: [2.0, 2.0]}, {0.01: (None, 3), 0.1: (2, 2)}
  )
  assert rates(at_own_best(sweep, made)) == {"residual": 0.001, "dhc2": 0.001}
  sweep, made = results_of({rate: [1.0, 1.0] for rate in RATES}, dict.fromkeys(RATES, (2, None)))
  assert at_own_best(sweep, made) == []


def test_the_shared_rate_is_the_bases(results_of):
  sweep, made = results_of({rate: [1.0, 1.0] for rate in RATES})
  assert rates(at_shared_rate(sweep, made)) == {"residual": 0.01, "dhc2": 0.01}
  assert len(at_shared_rate(sweep, made)) == 2


def test_an_arm_is_compared_with_the_baseline_seed_by_seed(results_of):
  sweep, made = results_of({rate: [2.0, 3.0] for rate in RATES})
  made = at_shared_rate(sweep, made)
  arm = result(made[1].group, [1.9, 3.3])
  base, other = compare([made[0], arm], "residual")
  assert base.is_baseline and base.difference is None and not other.is_baseline
  assert other.difference.by_seed == pytest.approx((-0.1, 0.3))
  assert other.finals == pytest.approx([1.9, 3.3]) and other.mean_and_sd[0] == pytest.approx(2.6)
  assert all(arm.difference is None for arm in compare([made[0], arm], "missing"))


def test_the_factors_compare_each_seed_with_its_own_baseline(results_of):
  """One seed ends lower than the baseline's, the other higher."""
  sweep, made = results_of({rate: [2.0, 9.0] for rate in RATES})
  base = at_shared_rate(sweep, made)[0]
  arm = result(Group("dhc2", 0.01), [1.0, 9.5])
  found = compare([base, arm], "residual")[1]
  assert found.factors[0] > 1 and found.factors[1] is None
  assert 1 < found.factor < found.factors[0]  # the factor of the mean curves


def test_the_factors_of_seeds_are_said_from_the_soonest_to_the_latest(results_of):
  sweep, made = results_of({rate: [2.0, 3.0] for rate in RATES})
  base, arm = compare(at_shared_rate(sweep, made), "residual")
  arm = dataclasses.replace(arm, factor=1.75, factors=[1.5, None, 2.0])
  words = convergence_in_words(arm, base)
  assert "in 1/1.75 of the tokens (seed by seed: 1/2.00 to 1/1.50; 1 of 3 seeds never)" in words


def test_costs_are_over_the_baselines(results_of):
  sweep, made = results_of({rate: [2.0, 3.0] for rate in RATES})
  base, arm = compare(at_shared_rate(sweep, made), "residual")
  arm.result.costs["step_seconds"] = 0.03
  assert cost_ratio(arm, base, "step_seconds") == pytest.approx(3.0)
  arm.result.costs["step_seconds"] = None
  assert cost_ratio(arm, base, "step_seconds") is None
