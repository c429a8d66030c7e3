"""Trackers get the rows of metrics.jsonl, and never stop or delay a run."""

import os
import sys
import threading
import types

import pytest

from hc_jax import UserError
from hc_jax.runs import trackers as trackers_lib
from hc_jax.runs import wandb as wandb_lib
from hc_jax.runs.metrics import Metrics, read_metrics
from hc_jax.runs.trackers import Trackers, find_factories
from hc_jax.train import StorageError

ROWS = [{"step": s, "train/loss": 1.0 / s, "val/loss": 2.0 / s} for s in (1, 2, 3)]


class Kept:
  """Tracker that keeps the numbers that it gets."""

  def __init__(self):
    self.given, self.closed = [], 0

  def log_scalar(self, event, value, **kwargs):
    self.given.append((kwargs, event, value))

  def close(self):
    self.closed += 1


class Failing(Kept):
  """Tracker that keeps each number and then raises."""

  def log_scalar(self, event, value, **kwargs):
    super().log_scalar(event, value, **kwargs)
    raise RuntimeError("the server is away")

  def close(self):
    super().close()
    raise RuntimeError("still away")


def made(*trackers, said=None):
  factories = [(f"my:{i}", lambda *_, one=one: one) for i, one in enumerate(trackers)]
  return Trackers(factories, "/workdir", {}, (said if said is not None else []).append)


def expected(rows):
  return [({"step": r["step"]}, name, r[name]) for r in rows for name in r if name != "step"]


def test_a_tracker_is_given_every_number_with_its_step_and_closed(tmp_path):
  kept = Kept()
  with Metrics(str(tmp_path), None, trackers=made(kept)) as metrics:
    for row in ROWS:
      metrics.write(row)
  assert kept.given == expected(ROWS) and kept.closed == 1
  assert read_metrics(str(tmp_path)) == ROWS


def test_a_row_that_could_not_be_written_is_not_given(tmp_path, monkeypatch):
  kept = Kept()
  with Metrics(str(tmp_path), None, trackers=made(kept)) as metrics:
    metrics.write(ROWS[0])
    metrics._file.close()
    metrics._file = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(StorageError, match="No space left"):
      metrics.write(ROWS[1])
  assert kept.given == expected(ROWS[:1])


def test_a_tracker_that_fails_is_warned_about_once_and_the_others_go_on(tmp_path):
  failing, kept, said = Failing(), Kept(), []
  with Metrics(str(tmp_path), None, trackers=made(failing, kept, said=said)) as metrics:
    for row in ROWS:
      metrics.write(row)
  assert failing.given == kept.given == expected(ROWS)  # its server may come back
  assert failing.closed == 1
  assert said == [
    "warning: tracker my:0 failed (RuntimeError: the server is away); the run continues, later "
    "failures are not logged"
  ]


def test_a_tracker_that_hangs_costs_no_step_and_a_bounded_end(tmp_path, monkeypatch):
  monkeypatch.setattr(trackers_lib, "ROWS", 5)
  monkeypatch.setattr(trackers_lib, "CLOSING", 0.1)
  hang, kept, said = threading.Event(), Kept(), []
  kept.log_scalar = lambda *_, **__: hang.wait(20)
  with Metrics(str(tmp_path), None, trackers=made(kept, said=said)) as metrics:
    for step in range(20):
      metrics.write({"step": step, "train/loss": 1.0})
  assert len(read_metrics(str(tmp_path))) == 20
  assert said == ["warning: tracker my:0 is too slow: 5 rows wait, and more are left out"]
  hang.set()


def test_a_tracker_that_cannot_be_made_is_left_out(tmp_path):
  kept, said = Kept(), []

  def broken(workdir, config):
    raise ConnectionError("no network")

  found = Trackers([("a:b", broken), ("c:d", lambda *_: kept)], "/w", {}, said.append)
  found.write(ROWS[0])
  found.close()
  assert kept.given == expected(ROWS[:1])
  assert said == ["warning: tracker a:b cannot be made (no network); the run goes without it"]

  def mistaken(workdir, config):
    raise UserError("no key; give one")

  with pytest.raises(UserError, match=r"`trackers=a:b`: no key; give one"):
    Trackers([("a:b", mistaken)], "/w", {}, said.append)


@pytest.fixture
def module(tmp_path, monkeypatch):
  """Writes a user's module to the working directory; importing it creates a file."""
  (tmp_path / "my_trackers_xyz.py").write_text(
    f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
    "def factory(workdir, config):\n  return (workdir, config)\n"
  )
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  yield "my_trackers_xyz"
  sys.modules.pop("my_trackers_xyz", None)


def test_factories_are_found_in_the_working_directory(module):
  ((spec, factory),) = find_factories((f"{module}:factory",))
  assert spec == f"{module}:factory" and factory("w", {"a": 1}) == ("w", {"a": 1})


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    ("my_trackers_xyz:factori", "my_trackers_xyz has no factori; did you mean 'factory'"),
    ("absent_xyz:factory", "`trackers`=absent_xyz:factory: there is no module 'absent_xyz'"),
    ("my_trackers_xyz", "is not module:name"),
    (":factory", "is not module:name"),
  ],
)
def test_names_that_cannot_be_are_said_before_training(module, spec, words):
  with pytest.raises(UserError, match=words):
    find_factories((spec,))


def test_a_saved_run_imports_no_tracker_when_it_is_opened(module, tmp_path):
  from hc_jax.runs import workdir as workdirs
  from hc_jax.train import load_run
  from tests.train import tiny

  run = tmp_path / "run"
  run.mkdir()
  workdirs.save_config(str(run), tiny.description(tiny.config(train__trackers=f"{module}:factory")))
  assert workdirs.saved_config(str(run)).train.trackers == (f"{module}:factory",)
  with pytest.raises(UserError, match="holds no checkpoint yet"):
    load_run(str(run))
  with workdirs.open_workdir(str(run), tiny.description(tiny.config()), log=lambda line: None):
    pass
  assert not (tmp_path / "imported").exists()


class FakeRun:
  """Run of the fake wandb."""

  def __init__(self, given):
    self.given, self.defined, self.rows, self.finished = given, [], [], 0

  def define_metric(self, name, step_metric=None):
    self.defined.append((name, step_metric))

  def log(self, row):
    self.rows.append(row)

  def finish(self):
    self.finished += 1


@pytest.fixture
def fake_wandb(monkeypatch):
  """Replaces the module wandb with the functions that are used; returns the list of its runs."""
  runs, fake = [], types.ModuleType("wandb")

  def init(**given):
    runs.append(FakeRun(given))
    return runs[-1]

  fake.init = init
  monkeypatch.setitem(sys.modules, "wandb", fake)
  return runs


def test_wandb_is_given_one_row_a_step_and_goes_on_under_its_id(fake_wandb, tmp_path):
  workdir = str(tmp_path / "run")
  os.mkdir(workdir)
  factories = find_factories(("hc_jax.runs.wandb:tracker",))
  for start, last in ((None, 3), (1, 2)):  # killed after step 3, resumed at step 1
    found = Trackers(factories, workdir, {"seed": 3}, pytest.fail)
    with Metrics(workdir, start, log=lambda line: None, trackers=found) as metrics:
      for row in ROWS[start or 0 : last]:
        metrics.write(row)
  first, second = fake_wandb
  assert first.rows == ROWS and second.rows == ROWS[1:2]
  assert first.finished == second.finished == 1
  assert first.defined == [("step", None), ("*", "step")]  # steps may be taken again
  assert first.given == second.given
  ident = (tmp_path / "run" / "trackers" / "wandb").read_text()
  assert first.given == {
    "id": ident,
    "resume": "allow",
    "name": "run",
    "config": {"seed": 3},
    "allow_val_change": True,
  }


def test_an_id_of_a_stranger_is_refused(fake_wandb, tmp_path):
  (tmp_path / "trackers").mkdir()
  (tmp_path / "trackers" / "wandb").write_text("../../x?")
  with pytest.raises(UserError, match="is not an id of 16 hexadecimal digits"):
    wandb_lib.tracker(str(tmp_path), {})
  assert fake_wandb == []


def test_wandb_that_is_not_installed_is_said_with_its_remedy(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "wandb", None)
  factories = find_factories(("hc_jax.runs.wandb:tracker",))
  with pytest.raises(UserError, match="wandb is not installed; pip install wandb"):
    Trackers(factories, str(tmp_path), {}, pytest.fail)
