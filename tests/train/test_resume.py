"""Interrupted runs end as uninterrupted ones: weights, optimizer state, metrics, bit for bit."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from hc_jax.runs.checkpoint import steps_of
from tests.train import tiny
from tests.train.interrupted import assert_same_run, measured, stop_and_kill, tear


@pytest.mark.slow  # test_task.py has the same of a model that compiles in no time
def test_a_run_that_was_stopped_and_killed_equals_one_that_was_not(
  one_device, tmp_path, monkeypatch, capsys
):
  straight, broken = tmp_path / "straight", tmp_path / "broken"
  tiny.start(straight)
  stop_and_kill(monkeypatch, capsys, broken, lambda: tiny.start(broken))
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
  """Uses accumulation and unrolled layers, which the test above does not."""
  flags = ("--config.train.accumulation=2", "--config.model.scan=false", "--config.seed=3")
  straight, broken = tmp_path / "straight", tmp_path / "broken"
  assert process(straight, *flags).returncode == 0
  assert process(broken, *flags, send="SIGKILL:3").returncode == -signal.SIGKILL
  assert steps_of(broken) == []  # killed before the first checkpoint
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


@pytest.mark.slow
@pytest.mark.parametrize("first", ["a row", "a checkpoint"])
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_afterwards(line_process, tmp_path, first):
  """Rows of metrics.jsonl or events exceed the limit first, or a checkpoint if rows are few."""
  rows = "--log_every=1" if first == "a row" else "--log_every=20"
  assert line_process(tmp_path, rows, "--num_steps=5").returncode == 0
  files = [p.stat().st_size for p in (tmp_path / "checkpoints" / "5").rglob("*")]
  metrics = (tmp_path / "metrics.jsonl").stat().st_size
  assert 2 * metrics < max(files) or first == "a row"
  full = line_process(tmp_path, rows, file_limit=metrics if first == "a row" else max(files) - 1)
  assert full.returncode == 4, full.stderr
  assert full.stderr.startswith("error: ") and full.stderr.count("\n") == 1, full.stderr
  assert "could not be written: File too large. Older checkpoints are untouched" in full.stderr
  assert steps_of(tmp_path) == [5]
  again = line_process(tmp_path, rows)
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
def test_a_machine_that_vanishes_with_its_disk_changes_nothing(tmp_path, line_process):
  """Kills a run, deletes its disk, and starts it again from its mirror."""
  straight, broken = tmp_path / "straight", tmp_path / "broken"
  flags = (f"--mirror={tmp_path}/there/run", "--checkpoint_every=5")
  assert line_process(straight, "--checkpoint_every=5").returncode == 0
  killed = line_process(broken, *flags, "--signal=KILL:18")
  assert killed.returncode == -signal.SIGKILL
  there = steps_of(tmp_path / "there" / "run")
  assert there and max(there) <= 15  # copied in the background: the kill may have been earlier
  shutil.rmtree(broken)
  stopped = line_process(broken, *flags, "--signal=TERM:16")
  assert stopped.returncode == 75, stopped.stderr
  assert f"checkpoint {max(there)} is fetched, with the metrics so far" in stopped.stdout
  assert f"resumed at step {max(there)}" in stopped.stdout
  shutil.rmtree(broken)  # after SIGTERM the process ends once the mirror has the checkpoint
  last = line_process(broken, *flags)
  assert last.returncode == 0, last.stderr
  assert "resumed at step 17" in last.stdout
  assert_same_run(straight, broken, 20)
  assert steps_of(tmp_path / "there" / "run") == steps_of(broken)
