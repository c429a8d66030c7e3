"""Tests of the curves of a run, compared with rows of metrics.jsonl by hand."""

import pytest

from hc_jax.ablate.running.curves import curves_of

# Steps 1 and 2 took 0.5 s each, 3 to 5 took 2 s each; evaluations have rows with or without steps.
ROWS = [
  {"step": 0, "val/loss": 5.0, "val/bpb": 7.0, "val/ppl": 148.0},
  {"step": 1, "train/loss": 4.5, "perf/step_s": 0.5},
  {"step": 2, "train/loss": 4.0, "perf/step_s": 0.5, "val/loss": 4.1, "val/bpb": 6.0},
  {"step": 4, "val/loss": 3.5, "val/bpb": 5.0},
  {"step": 5, "train/loss": 3.0, "perf/step_s": 2.0, "val/loss": 3.1, "val/bpb": 4.0},
]


def test_seconds_are_those_of_the_steps_until_then():
  curves = curves_of(ROWS)
  assert curves.train == {"step": [1, 2, 5], "loss": [4.5, 4.0, 3.0]}
  assert curves.val == {
    "step": [0, 2, 4, 5],
    "loss": [5.0, 4.1, 3.5, 3.1],
    "bpb": [7.0, 6.0, 5.0, 4.0],
    "seconds": pytest.approx([0.0, 1.0, 1.0, 7.0]),
  }
  assert curves.final == 3.1 and curves.diverged is None


@pytest.mark.parametrize("step, kept", [(5, [0, 2, 4]), (4, [0, 2]), (3, [0, 2]), (1, [0])])
def test_curves_end_before_the_step_that_diverged(step, kept):
  curves = curves_of(ROWS, diverged=step)
  assert curves.val["step"] == kept
  assert curves.train["step"] == [s for s in (1, 2) if s < step]
  assert curves.final is None and curves.diverged == step
