"""Tests of user tasks over seeds: equal to single runs, exact resume, divergence, refusals."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hc_jax import UserError, ablate
from hc_jax.ablate import tasks
from hc_jax.ablate.reporting.statistics import Difference
from hc_jax.ablate.running.records import Curves
from hc_jax.runs.metrics import Metrics
from hc_jax.train import Stopped, read_metrics
from tests.train import line
from tests.train.interrupted import FakeStop

SEEDS = (3, 8)


def arms(**changes):
  zero = lambda key: {**line.init(key), "params": {"slopes": jnp.zeros(3)}}  # noqa: E731
  return {"normal": line.task(**changes), "zero": line.task(init=zero, **changes)}


def compare(out, of=None, seeds=SEEDS, lines=None, **changes):
  settings = line.settings(num_steps=6, eval_every=2, checkpoint_every=2, **changes)
  log = (lambda text: None) if lines is None else lines.append
  return ablate.compare_tasks(
    of or arms(), optax.adam(0.05), settings, str(out), seeds=seeds, log=log
  )


def numbers(found):
  """Returns the measurements that do not depend on the speed of the machine."""
  return [
    (c.train, {k: v for k, v in c.val.items() if k != "seconds"}, c.diverged)
    for arm in found
    for c in arm.curves
  ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Returns a comparison that was trained to its end, and its folder."""
  out = tmp_path_factory.mktemp("tasks") / "whole"
  return compare(out), out


def test_each_seed_is_the_run_that_it_would_be_alone(whole, tmp_path):
  found, out = whole
  assert [(arm.name, arm.seeds) for arm in found] == [("normal", SEEDS), ("zero", SEEDS)]
  settings = {"num_steps": 6, "eval_every": 2, "checkpoint_every": 2}
  line.start(tmp_path, line.task(), optax.adam(0.05), seed=8, **settings)
  alone = {row["step"]: row for row in read_metrics(str(tmp_path))}
  curves = found[0].curves[1]
  assert curves.train["step"] == [1, 2, 3, 4, 5, 6] and curves.val["step"] == [0, 2, 4, 6]
  np.testing.assert_allclose(
    curves.train["loss"], [alone[s]["train/loss"] for s in range(1, 7)], rtol=1e-5
  )
  assert found[0].finals[1] == pytest.approx(alone[6]["val/loss"], rel=1e-5)
  rows = read_metrics(str(out / "normal" / "seed-8"))
  assert rows[-1]["train/off"] == pytest.approx(alone[6]["train/off"], rel=1e-5)
  apart = [b - a for a, b in zip(found[0].finals, found[1].finals, strict=True)]
  assert found[0].difference is None
  assert found[1].difference.mean == pytest.approx(np.mean(apart))


def test_interrupted_in_its_second_arm_it_ends_with_the_same_numbers(whole, tmp_path, monkeypatch):
  stop, write, lines = FakeStop(), Metrics.write, []

  def stopping(self, row):
    write(self, row)
    if row["step"] == 3 and "zero" in self._path:
      stop.requested = True

  with monkeypatch.context() as patch:
    patch.setattr(Metrics, "write", stopping)
    patch.setattr(tasks, "StopSignal", lambda: stop)
    with pytest.raises(Stopped, match="by SIGTEST after step 4, which is saved"):
      compare(tmp_path)
  found = compare(tmp_path, lines=lines)
  assert numbers(found) == numbers(whole[0]) and found[1].difference == whole[0][1].difference
  first, second = "\n".join(lines).split("zero: seeds 3, 8")
  assert "finished already, at step 6" in first and "  resumed at step 4" in second


def test_a_finished_one_is_not_trained_again(whole):
  def trained_again(*_):
    raise AssertionError

  found, out = whole
  again = compare(out, arms(train=trained_again, loss=trained_again, evaluate=trained_again))
  assert numbers(again) == numbers(found)


class Poisoned(line.Batches):
  """Batches in which one seed gets a NaN from the fourth batch on."""

  def __getitem__(self, s):
    batch = super().__getitem__(s)
    return {**batch, "x": batch["x"] * np.nan} if s >= 3 and self.seed == 8 else batch


def test_a_seed_that_diverges_is_recorded_and_the_other_continues(whole, tmp_path):
  of = arms() | {"bad": line.task(train=Poisoned)}
  lines = []
  _, _, bad = compare(tmp_path, of, lines=lines)
  good, lost = bad.curves
  assert (good.diverged, lost.diverged) == (None, 4) and bad.difference is None
  assert numbers([bad])[0] == numbers(whole[0])[0]
  assert lost.train["step"] == [1, 2, 3] and lost.val["step"] == [0, 2]
  assert bad.finals == [whole[0][0].finals[0], None]
  assert sum("seed 8: train/" in text and "at step 4; diverged" in text for text in lines) == 1
  assert numbers(compare(tmp_path, of)) == numbers(compare(tmp_path, of))
  assert "1 of 2 seeds diverged" in ablate.table([bad])


def test_what_a_comparison_was_begun_with_must_not_change(whole):
  _, out = whole
  with pytest.raises(UserError, match="holds no arm to continue"):
    compare(out, seeds=(3, 9))
  with pytest.raises(UserError, match=r"the data has changed since .*normal was begun"):
    compare(out, arms(identity={"slopes": "others"}))
  with pytest.raises(UserError, match="holds the task 'line', but this is 'curve'"):
    compare(out, arms(name="curve"))


@pytest.mark.parametrize(
  ("of", "seeds", "words"),
  [
    ({}, SEEDS, "needs at least one arm"),
    (None, (), "needs at least one arm"),
    (None, (1, 1), "one seed, and no seed twice"),
    ({"a/b": line.task()}, SEEDS, "arm 'a/b' cannot name a folder"),
    ({"..": line.task()}, SEEDS, r"arm '\.\.' cannot name a folder"),
    ({"a": line.task(name="")}, SEEDS, r"Task\.name is empty"),
    ({"a": line.task(val=())}, SEEDS, "the task of arm 'a' cannot be compared; give it val"),
  ],
)
def test_arguments_that_cannot_be_are_refused_and_leave_nothing(tmp_path, of, seeds, words):
  with pytest.raises(UserError, match=words):
    ablate.compare_tasks(
      arms() if of is None else of,
      optax.adam(0.05),
      line.settings(),
      str(tmp_path / "out"),
      seeds=seeds,
    )
  assert list(tmp_path.iterdir()) == []


def arm(name, finals, difference=None):
  curves = []
  for final in finals:
    one = Curves(diverged=3 if final is None else None)
    if final is not None:
      one.val = {"step": [4], "loss": [final], "seconds": [0.0]}
    curves.append(one)
  return ablate.tasks.TaskArm(name, tuple(range(len(finals))), curves, difference)


def test_the_table():
  found = [
    arm("normal", [2.0, 4.0]),
    arm("wider", [2.5, 4.5], Difference((0.5, 0.5), 0.5, 0.25)),
    arm("half", [None, 1.5]),
    arm("lost", [None, None]),
  ]
  assert ablate.table(found).splitlines() == [
    "arm     mean     sd  difference to normal",
    "normal     3  1.414",
    "wider    3.5  1.414  +0.5 ± 0.25",
    "half     1.5      -  1 of 2 seeds diverged",
    "lost       -      -  2 of 2 seeds diverged",
  ]
