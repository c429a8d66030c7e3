"""The benchmarks run, time each contender in every round, and print and write what they found."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import step, timing

ROOT = pathlib.Path(__file__).parents[2]
# The contenders are written as one would write them.
_AS_USERS = {"JAX_NUMPY_RANK_PROMOTION": "allow"}


def test_every_round_runs_all_in_turn():
  ran = []
  programs = {name: timing.Program(lambda name=name: ran.append(name)) for name in "abc"}
  rows = timing.interleave(programs, rounds=2, warmup=1)
  assert "".join(ran) == "abc" + "abc" + "bca"
  assert all(row["low"] <= row["wall"] <= row["high"] for row in rows.values())


def test_a_paired_ratio_has_an_interval():
  mean, low, high = timing.ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
  assert mean == pytest.approx(2) and low == pytest.approx(2) and high == pytest.approx(2)
  mean, low, high = timing.ratio([1.0, 1.0], [2.0, 8.0])
  assert mean == pytest.approx(4) and low < 2 and high > 8
  assert timing.ratio([1.0], [2.0]) is None and timing.ratio([0.0, 1.0], [1.0, 1.0]) is None


def test_a_program_that_carries_takes_its_result_the_next_time():
  seen = []

  def note(x, y):
    jax.debug.callback(lambda x: seen.append(float(x)), x)
    return x + y, y

  program = timing.jax_program(note, jnp.ones(()), jnp.ones(()), carries=True)
  for _ in range(3):
    program.run()
  jax.effects_barrier()
  assert seen == [1.0, 2.0, 3.0]
  assert program.compile_s > 0 and program.memory_mb >= 0


@pytest.mark.exhaustive
def test_the_gpu_script_runs_every_benchmark_and_keeps_its_figures(tmp_path):
  """On tiny shapes and whatever device there is."""
  run = subprocess.run(
    ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path)],
    env={**os.environ, "SMOKE": "1", "PYTHON": sys.executable, "XLA_FLAGS": "", **_AS_USERS},
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stdout
  rows = {
    "bandwidth": {"copy"},
    "ops": {"dhc", "naive"},
    "block": {"residual"},
    "step": {"residual", "direct"},
    "scaling": {"residual", "dhc"},
  }
  for name, wanted in rows.items():
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["device"] in run.stdout and found["jax"] and found["commit"]
    for table in found["tables"].values():
      assert set(table) == wanted
      assert all(row["wall"] > 0 and row["memory_mb"] >= 0 for row in table.values())


def test_an_unknown_row_is_named_with_the_choice():
  with pytest.raises(SystemExit, match="dhc5: unknown; choose from residual, direct"):
    step.main(["--rows=dhc5"])
