"""Runs that are stopped or killed in this process, and whether they end as those that were not."""

import chex
import orbax.checkpoint as ocp
import pytest

from hc_jax.runs.checkpoint import path_of, steps_of
from hc_jax.runs.metrics import Metrics
from hc_jax.train import Stopped, read_metrics, start


def saved(workdir, step):
  """All arrays of a checkpoint, as it lies on disk."""
  items = [
    i for i in ("params", "train", "collections") if (workdir / path_of("", step, i)).is_dir()
  ]
  with ocp.PyTreeCheckpointer() as reader:
    return {item: reader.restore(path_of(workdir, step, item)) for item in items}


def measured(workdir):
  """The rows of a run without what depends on the machine's speed."""
  return [{k: v for k, v in r.items() if "perf/" not in k} for r in read_metrics(str(workdir))]


def assert_same_run(a, b, step):
  """Both runs have the same last checkpoint, bit for bit, and the same row for every step."""
  chex.assert_trees_all_equal(saved(a, step), saved(b, step))
  assert measured(a) == measured(b)
  assert [row["step"] for row in measured(b)] == list(range(step + 1))


class Killed(BaseException):
  """Ends a run as SIGKILL does, but not its process."""


class FakeStop:
  """A StopSignal that no signal sets."""

  name, requested = "SIGTEST", False

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass


def interrupt(monkeypatch, train, step, *, kills=False):
  """Calls `train`, which starts a run; once row `step` is written it is stopped, or killed."""
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
  """Leaves half a row, as a process does that is killed while it writes."""
  with open(workdir / "metrics.jsonl", "a") as file:
    file.write('{"step": 14, "train/lo')


def stop_and_kill(monkeypatch, capsys, workdir, train):
  """Trains to the end of 20 steps, stopped after row 4 and killed after row 13."""
  reason = interrupt(monkeypatch, train, 4)
  # One more step is under way when row 4 is written; it is finished and saved.
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
