"""A run that loses its console takes every step, and still reacts to signals."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hc_jax.runs.checkpoint import steps_of
from tests.train import line
from tests.train.conftest import one_device_environment

pytestmark = pytest.mark.slow


def start(workdir, *flags, env=None, **streams):
  command = [sys.executable, line.__file__, str(workdir), *flags]
  return subprocess.Popen(
    command, env=one_device_environment() | (env or {}), **{"stderr": subprocess.PIPE} | streams
  )


def ended(child):
  _, err = child.communicate(timeout=240)
  return child.returncode, (err or b"").decode()


@pytest.mark.parametrize(
  "stdout",
  [
    "on a full disk",
    "closed",
    pytest.param("without a reader", marks=pytest.mark.exhaustive),
    pytest.param("all full", marks=pytest.mark.exhaustive),
  ],
)
def test_every_step_is_taken_and_saved(stdout, tmp_path):
  streams = {}
  with open("/dev/full", "w") as full:
    if "full" in stdout:
      streams = {"stdout": full} | ({"stderr": full} if "all" in stdout else {})
    elif stdout == "closed":
      streams = {"preexec_fn": lambda: os.close(1)}
    else:
      read, write = os.pipe()
      os.close(read)
      streams = {"stdout": write}
    assert ended(start(tmp_path / "run", **streams)) == (0, "")
  assert steps_of(str(tmp_path / "run")) == [10, 20]


def test_a_workdir_with_letters_that_stdout_lacks(tmp_path):
  env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
  child = start(tmp_path / "wörk", env=env, stdout=subprocess.PIPE)
  out, err = child.communicate(timeout=240)
  assert (child.returncode, err) == (0, b"")
  assert rb"w\xf6rk" in out and steps_of(str(tmp_path / "wörk")) == [10, 20]


def test_a_pipe_that_nobody_reads_stops_neither_training_nor_a_signal(tmp_path):
  workdir = tmp_path / "run"
  flags = ["--num_steps=100000", "--checkpoint_every=100"]
  child = start(workdir, *flags, stdout=subprocess.PIPE)
  deadline = time.monotonic() + 200
  rows = workdir / "metrics.jsonl"  # a pipe holds 64 KiB, about 600 lines
  while not (rows.exists() and rows.read_bytes().count(b"\n") > 1500):
    assert child.poll() is None and time.monotonic() < deadline
    time.sleep(0.5)
  child.send_signal(signal.SIGTERM)
  err = child.stderr.read().decode()
  assert child.wait(timeout=60) == 75 and "which is saved" in err, err
