"""Interrupted runs end as uninterrupted ones: weights, optimizer state, metrics, bit for bit."""

import json
import shutil
import signal
import subprocess
import sys

import chex
import orbax.checkpoint as ocp
import pytest

from hc_jax.runs.checkpoint import path_of, steps_of
from hc_jax.runs.metrics import Metrics
from hc_jax.train import Stopped, read_metrics, start
from tests.train import tiny


def saved(workdir, step):
  """All arrays of a checkpoint, as it lies on disk."""
  with ocp.PyTreeCheckpointer() as reader:
    return {item: reader.restore(path_of(workdir, step, item)) for item in ("params", "train")}


def measured(workdir):
  """The rows of a run without what depends on the machine's speed."""
  return [{k: v for k, v in r.items() if "perf/" not in k} for r in read_metrics(str(workdir))]


def assert_same_run(a, b, step):
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


def interrupt(monkeypatch, workdir, step, *, kills=False, **changes):
  """Starts the run; once row `step` is written it is asked to stop, or killed."""
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
      tiny.start(workdir, **changes)
  return str(ended.value)


def tear(workdir):
  """Leaves half a row, as a process does that is killed while it writes."""
  with open(workdir / "metrics.jsonl", "a") as file:
    file.write('{"step": 14, "train/lo')


def test_a_run_that_was_stopped_and_killed_equals_one_that_was_not(
  one_device, tmp_path, monkeypatch, capsys
):
  straight, broken = tmp_path / "straight", tmp_path / "broken"
  tiny.start(straight)
  reason = interrupt(monkeypatch, broken, 4)
  # One more step is under way when row 4 is written; it is finished and saved.
  assert reason.startswith("stopped by SIGTEST after step 5, which is saved; run the same command")
  assert steps_of(broken) == [5]

  capsys.readouterr()
  interrupt(monkeypatch, broken, 13, kills=True)
  assert "resumed at step 5" in capsys.readouterr().out
  assert steps_of(broken) == [5, 10]
  tear(broken)
  tiny.start(broken)
  said = capsys.readouterr().out
  assert "resumed at step 10" in said
  assert "dropped 3 of steps that are taken again and 1 torn" in said
  assert_same_run(straight, broken, 20)
  card = json.loads((broken / "checkpoints/20/card/metadata").read_text())
  assert card["step"] == 20 and card["val/loss"] == measured(broken)[-1]["val/loss"]
  assert card["config"]["model"]["d_model"] == 16
  assert "mix[i, j] carries stream j into stream i" in card["conventions"]["orientation"]
  assert card["data"]["fingerprint"] == "tiny" and "jax" in card["versions"]
  values = measured(straight)[-1]
  assert {"train/loss", "train/grad_norm", "val/loss", "val/bpb"} <= set(values)


@pytest.mark.slow
def test_processes_that_are_killed_and_stopped_for_real_change_nothing_about_resume(
  tmp_path, process
):
  """With accumulation and layers unrolled, besides; the test above has neither."""
  flags = ("--config.train.accumulation=2", "--config.model.scan=false", "--config.seed=3")
  straight, broken = tmp_path / "straight", tmp_path / "broken"
  assert process(straight, *flags).returncode == 0
  assert process(broken, *flags, send="SIGKILL:3").returncode == -signal.SIGKILL
  assert steps_of(broken) == []  # before the first checkpoint: everything is taken again
  stopped = process(broken, *flags, send="SIGTERM:4")
  assert stopped.returncode == 75, stopped.stderr
  assert "run the same command to resume" in stopped.stderr
  assert steps_of(broken) == [5]
  killed = process(broken, *flags, send="SIGKILL:13")
  assert killed.returncode == -signal.SIGKILL
  assert "resumed at step 5" in killed.stdout
  assert steps_of(broken) == [5, 10]
  tear(broken)
  assert process(broken, *flags, send="SIGINT:17").returncode == 75
  resumed = process(broken, *flags)
  assert resumed.returncode == 0, resumed.stderr
  assert_same_run(straight, broken, 20)


@pytest.mark.parametrize(
  "bytes_left",
  [
    pytest.param(1_000, marks=pytest.mark.exhaustive),
    pytest.param(20_000, marks=pytest.mark.exhaustive),
  ],
)
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_afterwards(process, tmp_path, bytes_left):
  """The smaller limit is met by the rows of metrics.jsonl or events, the other by a checkpoint."""
  assert process(tmp_path, "--config.train.num_steps=5").returncode == 0
  full = process(tmp_path, file_limit=bytes_left)
  assert full.returncode == 4, full.stderr
  assert full.stderr.startswith("error: ") and full.stderr.count("\n") == 1, full.stderr
  assert "could not be written: File too large. Older checkpoints are untouched" in full.stderr
  assert steps_of(tmp_path) == [5]
  again = process(tmp_path)
  assert (again.returncode, again.stderr) == (0, "")
  assert "resumed at step 5" in again.stdout


@pytest.mark.slow
def test_train_py_reports_in_one_line_what_is_to_be_mended(tmp_path):
  root = tiny.ROOT
  command = [sys.executable, str(root / "train.py"), "--config=configs/quickstart.py"]
  flags = [f"--workdir={tmp_path / 'run'}", "--config.optim.learning_rat=1"]
  done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=tmp_path)
  assert done.returncode == 2
  assert done.stderr.startswith("error: ") and "optim.learning_rate" in done.stderr
  assert "Traceback" not in done.stderr
  assert not (tmp_path / "run").exists()


def test_train_py_without_its_packages_says_how_to_have_them(tmp_path):
  root = tiny.ROOT
  bare = [sys.executable, "-I", "-S", str(root / "train.py")]  # no site-packages
  flags = ["--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}"]
  done = subprocess.run([*bare, *flags], capture_output=True, text=True, cwd=tmp_path)
  assert done.returncode == 2
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
  assert "has no package" in done.stderr and "source .venv/bin/activate" in done.stderr


@pytest.mark.slow
def test_a_machine_that_vanishes_with_its_disk_changes_nothing(tmp_path, process):
  """Killed, its disk deleted, started again: the mirror has all that the run needs."""
  straight, broken = tmp_path / "straight", tmp_path / "broken"
  flags = (f"--config.train.mirror={tmp_path}/there/run", "--config.train.checkpoint_every=5")
  assert process(straight, "--config.train.checkpoint_every=5").returncode == 0
  killed = process(broken, *flags, send="SIGKILL:18")
  assert killed.returncode == -signal.SIGKILL
  there = steps_of(tmp_path / "there" / "run")
  assert there and max(there) <= 15  # copied in the background: the kill may have been earlier
  shutil.rmtree(broken)
  stopped = process(broken, *flags, send="SIGTERM:16")
  assert stopped.returncode == 75, stopped.stderr
  assert f"checkpoint {max(there)} is fetched, with the metrics so far" in stopped.stdout
  assert f"resumed at step {max(there)}" in stopped.stdout
  shutil.rmtree(broken)  # SIGTERM saves, and the mirror has it before the process ends
  last = process(broken, *flags)
  assert last.returncode == 0, last.stderr
  assert "resumed at step 17" in last.stdout
  assert_same_run(straight, broken, 20)
  assert steps_of(tmp_path / "there" / "run") == steps_of(broken)
