"""The benchmarks run, time each contender in every round, and print and write what they found."""

import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks import block, copy, ops, scaling, step, timing


def test_every_round_runs_all_in_turn():
  ran = []
  programs = {name: timing.Program(lambda name=name: ran.append(name)) for name in "abc"}
  rows = timing.interleave(programs, rounds=2, warmup=1)
  assert "".join(ran) == "abc" + "abc" + "bca"
  assert all(row["low"] <= row["wall"] <= row["high"] for row in rows.values())


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


@pytest.mark.slow
@pytest.mark.parametrize(
  ("module", "argv", "rows"),
  [
    (copy, ["--megabytes=1"], {"copy"}),
    (
      ops,
      ["--tokens=8", "--d=4", "--n=2", "--dtypes=float32", "--rows=dhc,naive,einsum-mhc"],
      {"dhc", "naive", "einsum-mhc"},
    ),
    (block, ["--tokens=8", "--length=4", "--d=8", "--heads=2", "--rows=residual,dhc2"], {"dhc2"}),
    (step, ["--shape=tiny", "--rows=residual,direct,dhc4"], {"residual", "direct", "dhc4"}),
    (scaling, ["--shape=tiny", "--axes=n", "--values=2"], {"residual", "dhc"}),
  ],
  ids=["copy", "ops", "block", "step", "scaling"],
)
def test_a_benchmark_prints_and_writes_its_figures(module, argv, rows, tmp_path, capsys):
  path = tmp_path / "figures.json"
  with jax.numpy_rank_promotion("allow"):  # the contenders are written as one would write them
    assert module.main([*argv, "--rounds=2", f"--json={path}"]) == 0
  printed = capsys.readouterr().out
  found = json.loads(path.read_text())
  assert found["device"] in printed and found["jax"]
  for table in found["tables"].values():
    assert rows <= set(table)
    assert all(row["wall"] > 0 and row["memory_mb"] >= 0 for row in table.values())


def test_an_unknown_row_is_named_with_the_choice():
  with pytest.raises(SystemExit, match="dhc5: unknown; choose of residual, direct"):
    step.main(["--rows=dhc5"])
