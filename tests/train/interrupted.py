"""Stops and kills of runs in this process, and comparison with runs that were not interrupted."""

import chex
import orbax.checkpoint as ocp
import pytest

from hc_jax.runs.checkpoint import path_of, steps_of
from hc_jax.runs.metrics import Metrics
from hc_jax.train import Stopped, read_metrics, start


def saved(workdir, step):
  """Reads all arrays of a checkpoint."""
  items = [
    i for i in ("params", "train", "collections") if (workdir / path_of("", step, i)).is_dir()
  ]
  with ocp.PyTreeCheckpointer() as reader:
    return {item: reader.restore(path_of(workdir, step, item)) for item in items}


def measured(workdir):
  """Returns the rows of a run without those numbers that depend on speed."""
  return [{k: v for k, v in r.items() if "perf/" not in k} for r in read_metrics(str(workdir))]


def assert_same_run(a, b, step):
  """Checks that both runs have bitwise the same last checkpoint, and the same rows."""
  chex.assert_trees_all_equal(saved(a, step), saved(b, step))
  assert measured(a) == measured(b)
  assert [row["step"] for row in measured(b)] == list(range(step + 1))


class Killed(BaseException):
  """Exception that ends a run without cleaning up, as SIGKILL does."""


class FakeStop:
  """StopSignal that a test sets instead of a signal."""

  name, requested = "SIGTEST", False

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass


def interrupt(monkeypatch, train, step, *, kills=False):
  """Calls `train`, which starts a run, and stops or kills it once row `step` is written."""
  stop, write = FakeStop(), Metrics.write

  def interrupting(self, row):
    write(self, row)
    if row["step"] == step:
      stop.requested = True
      if kills:
        raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(Metrics, "write", interrupting)
    patch.setattr(start, "StopSignal", lambda: stop)
    with pytest.raises(Killed if kills else Stopped) as ended:
      train()
  return str(ended.value)


def tear(workdir):
  """Appends half a row, as a process leaves it that is killed while it writes."""
  with open(workdir / "metrics.jsonl", "a") as file:
    file.write('{"step": 14, "train/lo')


def stop_and_kill(monkeypatch, capsys, workdir, train):
  """Trains 20 steps, with a stop after row 4 and a kill after row 13."""
  reason = interrupt(monkeypatch, train, 4)
  # When row 4 is written, step 5 is running already; it is finished and saved.
  assert reason.startswith("stopped by SIGTEST after step 5, which is saved; run the same command")
  assert steps_of(workdir) == [5]
  capsys.readouterr()
  interrupt(monkeypatch, train, 13, kills=True)
  assert "resumed at step 5" in capsys.readouterr().out
  assert steps_of(workdir) == [5, 10]
  tear(workdir)
  train()
  said = capsys.readouterr().out
  assert "resumed at step 10" in said
  assert "dropped 3 of steps that are taken again and 1 torn" in said
