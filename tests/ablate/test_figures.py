"""Tests of the curves in a report, losses of all seeds against costs, compared by hand."""

import numpy as np

from hc_jax.ablate.reporting import figures
from hc_jax.ablate.reporting.summary import compare
from tests.ablate.conftest import result


def test_a_curve_has_its_losses_and_what_they_cost(make_sweep):
  sweep = make_sweep(seeds=(0, 1), train__batch_size=4, data__length=8)
  group = sweep.groups()[0]
  costs = {"flops_per_token": 10.0, "step_seconds": 0.5}
  (arm,) = compare([result(group, [2.0, 3.0], **costs)], "residual")
  curve = figures.curves(sweep, arm)
  assert curve.name == "residual"
  np.testing.assert_array_equal(curve.loss, [[6, 4, 2], [7, 5, 3]])  # after steps 0, 2 and 4
  tokens = [0, 2 * 4 * 8, 4 * 4 * 8]
  expected = {"steps": [0, 2, 4], "tokens": tokens, "seconds": [0, 1, 2]}
  expected["flops"] = [10 * count for count in tokens]
  assert {name: list(x) for name, x in curve.x.items()} == expected
  (arm,) = compare([result(group, [2.0, 3.0], flops_per_token=None, step_seconds=None)], "residual")
  assert set(figures.curves(sweep, arm).x) == {"steps", "tokens"}
