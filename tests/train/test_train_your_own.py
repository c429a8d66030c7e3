"""Runs of docs/train-your-own.md give the same numbers if they are killed and resumed."""

import json
import re
import signal
import subprocess
import sys

import chex
import pytest

from hc_jax.runs.checkpoint import steps_of
from tests.train.interrupted import interrupt, measured, saved
from tests.train.line import ROOT

pytestmark = pytest.mark.slow

# Setup of a test process: the suite's devices and cache, and a signal at a step.
BEGIN = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests import environment
environment.prepare()
import signal
from tests.train import line
if len(sys.argv) > 2:
  name, step = sys.argv[2].split(":")
  line.send_at(getattr(signal, name), int(step))
"""


def block(number):
  """Returns a Python block of the page, after the imports and batches of its first block."""
  page = (ROOT / "docs" / "train-your-own.md").read_text()
  found = re.findall(r"^```python\n(.*?)^```", page, flags=re.S | re.M)
  return found[0][: found[0].index("def errors")] + found[number]


def assert_same_run(a, b, step):
  chex.assert_trees_all_equal(saved(a, step), saved(b, step))
  assert measured(a) == measured(b) and len(measured(a)) > 3


def test_the_network_with_batch_norm_is_killed_on_eight_devices_and_resumed_bitwise(tmp_path):
  def train(name, *signal_at):
    (tmp_path / name).mkdir(exist_ok=True)
    file = tmp_path / "stripes.py"
    file.write_text(BEGIN + block(2))
    return subprocess.run(
      [sys.executable, str(file), "runs/stripes", *signal_at],
      cwd=tmp_path / name,
      capture_output=True,
      text=True,
      timeout=300,
    )

  whole = train("straight")
  assert whole.returncode == 0, whole.stderr
  assert "device  8 x cpu" in whole.stdout and "mesh fsdp: data 1, fsdp 8" in whole.stdout
  killed = train("broken", "SIGKILL:15")
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  broken, straight = (tmp_path / name / "runs" / "stripes" for name in ("broken", "straight"))
  assert steps_of(broken) == [10]
  again = train("broken")
  assert again.returncode == 0 and "resumed at step 10" in again.stdout, again.stderr
  assert_same_run(straight, broken, 30)
  stored = saved(broken, 30)
  assert set(stored["collections"]) == {"batch_stats"} and set(stored) >= {"params", "train"}
  card = json.loads((broken / "checkpoints/30/card/metadata").read_text())
  assert (card["task"], card["config"]["mesh"]["fsdp"]) == ("stripes", 8)
  assert measured(broken)[-1]["train/accuracy"] > 0.9


def test_the_nnx_model_is_stopped_and_killed_and_resumed_bitwise(tmp_path, monkeypatch, capsys):
  whole, last, end = block(3).rstrip().rpartition("\ntrain.train(")
  assert last and "\n" not in end
  names = {"__name__": "page"}
  exec(compile(whole, "train-your-own.md", "exec"), names)

  def train(name):
    (tmp_path / name).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / name)
    exec(f"train.train({end}", names)

  train("straight")
  interrupt(monkeypatch, lambda: train("broken"), 20)
  capsys.readouterr()
  interrupt(monkeypatch, lambda: train("broken"), 40, kills=True)
  assert "resumed at step 21" in capsys.readouterr().out
  train("broken")
  assert "resumed at step 30" in capsys.readouterr().out
  assert_same_run(*(tmp_path / name / "runs" / "mlp" for name in ("straight", "broken")), 60)


def test_the_first_example_is_short():
  page = (ROOT / "docs" / "train-your-own.md").read_text()
  first = re.search(r"^```python\n(.*?)^```", page, flags=re.S | re.M)[1]
  lines = [text for text in first.splitlines() if text.strip()]
  assert len(lines) <= 40
