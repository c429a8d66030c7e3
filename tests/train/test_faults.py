"""Damaged checkpoints, full disks and signals: the message, and that the run can be resumed."""

import errno
import gc
import os
import re
import signal
import time

import pytest

from hc_jax import UserError
from hc_jax.runs import checkpoint, manifest
from hc_jax.train import Stopped, StorageError, load_task_run, loop, read_metrics
from tests.train.line import start, task


def largest(folder):
  """Returns the largest file of arrays, or the largest file if there are none."""
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max([p for p in files if p.parent.name == "d"] or files, key=lambda p: p.stat().st_size)


def truncate(folder):
  file = largest(folder)
  os.truncate(file, file.stat().st_size // 2)


def flip(folder):
  file = largest(folder)
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


DAMAGE = {  # damage to checkpoint 10, and its message
  "truncated": (truncate, r"d/\w+ has [\d,]+ bytes instead of"),
  "a bit flipped": (flip, r"d/\w+ has changed: its SHA-256 differs"),
  "a file is missing": (lambda folder: largest(folder).unlink(), r"d/\w+ is missing"),
  "card torn": (lambda folder: truncate(folder / "card"), r"card/metadata has [\d,]+ bytes"),
  "metadata torn": (
    lambda folder: os.truncate(folder / "params/_METADATA", 10),
    "params/_METADATA has 10 bytes",
  ),
  "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_said(finished_line, capfd, recwarn, damage):
  before = {r["step"]: r for r in read_metrics(str(finished_line))}
  act, reason = DAMAGE[damage]
  act(finished_line / "checkpoints" / "10")
  capfd.readouterr()
  assert load_task_run(str(finished_line), task()).step == 5
  assert re.fullmatch(f"checkpoint 10 is passed over: .*{reason}.*\n", capfd.readouterr().err)
  with pytest.raises(UserError, match=rf"no good checkpoint in .* \(10: .*{reason}"):
    load_task_run(str(finished_line), task(), 10)

  start(finished_line, num_steps=10, checkpoint_every=5)
  out, err = capfd.readouterr()
  assert re.search(f"^checkpoint 10 is passed over: .*{reason}.*$", out, re.MULTILINE)
  assert f"checkpoint 10 is moved to {finished_line}/rejected/10" in out
  assert "resumed at step 5" in out
  gc.collect()
  assert (err, list(recwarn)) == ("", [])
  assert checkpoint.steps_of(str(finished_line)) == [5, 10]
  for row in read_metrics(str(finished_line)):
    for name in ("train/loss", "val/loss"):
      assert row.get(name) == before[row["step"]].get(name)


def test_when_all_are_damaged_nothing_is_moved(finished_line):
  for step in ("5", "10"):
    truncate(finished_line / "checkpoints" / step / "params")
  with pytest.raises(UserError, match=r"none of the checkpoints .* is good: 10: .*; 5: "):
    start(finished_line, checkpoint_every=5)
  assert checkpoint.steps_of(str(finished_line)) == [5, 10]


def test_a_full_disk_at_a_checkpoint_leaves_the_older_ones(finished_line, monkeypatch):
  import orbax.checkpoint as ocp

  def full(*_, **__):
    raise ValueError("write failed: No space left on device")  # as TensorStore puts it

  monkeypatch.setattr(ocp.AsyncCheckpointer, "save", full)
  with pytest.raises(StorageError, match=r"checkpoint 12 .*: No space left on device\. Older"):
    start(finished_line, num_steps=12, checkpoint_every=5)
  assert checkpoint.steps_of(str(finished_line)) == [5, 10]


def test_a_full_disk_at_a_row_of_metrics(finished_line, monkeypatch):
  from hc_jax.runs.metrics import Metrics

  class Full:
    def write(self, line):
      raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
      pass

  opened = Metrics.__init__

  def init(self, *args, **kwargs):
    opened(self, *args, **kwargs)
    self._file.close()
    self._file = Full()

  monkeypatch.setattr(Metrics, "__init__", init)
  with pytest.raises(StorageError, match=r"metrics\.jsonl could not be written: No space left"):
    start(finished_line, num_steps=12, checkpoint_every=5)
  assert checkpoint.steps_of(str(finished_line)) == [5, 10]


def around_call(owner, name, monkeypatch, before=None, after=None, at=1):
  """Calls `before` or `after` around the `at`-th call of a function."""
  real, calls = getattr(owner, name), []

  def wrapped(*args, **kwargs):
    calls.append(name)
    now = len(calls) == at
    if now and before:
      before()
    result = real(*args, **kwargs)
    if now and after:
      after()
    return result

  monkeypatch.setattr(owner, name, wrapped)


def stop():
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(0.2)  # a thread reads the signal


WHERE = {  # place of the signal: owner, function, number of the call, step that is then saved
  "compilation": (loop, "compile_steps", 1, 0),
  "first evaluation": (loop.Loop, "_evaluate", 1, 0),
  "step": (loop.Loop, "_settle", 2, 2),
  "evaluation": (loop.Loop, "_evaluate", 2, 3),
  "save": (checkpoint.Checkpoints, "save", 1, 3),
  "save in the background": (checkpoint.Checkpoints, "save", 1, 3),
}


@pytest.mark.parametrize("where", WHERE)
def test_sigterm_leaves_a_complete_checkpoint_and_changes_nothing(
  tmp_path, monkeypatch, capsys, where
):
  owner, name, at, step = WHERE[where]
  flags = {"num_steps": 6, "eval_every": 3, "checkpoint_every": 3}
  with monkeypatch.context() as patch:
    background = "background" in where
    around_call(owner, name, patch, at=at, **{"after" if background else "before": stop})
    if background:
      around_call(manifest, "write", patch, before=lambda: time.sleep(0.5))
    with pytest.raises(
      Stopped, match=r"stopped by SIGTERM after step \d, which is saved"
    ) as caught:
      start(tmp_path, **flags)
  assert caught.value.exit_code == 75
  newest = checkpoint.steps_of(str(tmp_path))[-1]
  assert newest == step and str(caught.value).count(f"step {newest},") == 1
  assert manifest.fault(checkpoint.path_of(str(tmp_path), newest), newest) is None
  capsys.readouterr()
  start(tmp_path, **flags)
  if newest:
    assert f"resumed at step {newest}" in capsys.readouterr().out
  rows = read_metrics(str(tmp_path))
  assert [row["step"] for row in rows] == list(range(7))
  assert [row["step"] for row in rows if "val/loss" in row] == [0, 3, 6]


def test_stopped_before_the_first_step_twice(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    for _ in range(2):
      around_call(loop, "compile_steps", patch, before=stop)
      with pytest.raises(Stopped, match="stopped by SIGTERM after step 0, which is saved"):
        start(tmp_path, num_steps=3)
      assert checkpoint.steps_of(str(tmp_path)) == [0]
  start(tmp_path, num_steps=3)
  assert [row["step"] for row in read_metrics(str(tmp_path))] == [0, 1, 2, 3]
