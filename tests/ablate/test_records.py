"""Tests that a row of results.jsonl describes its own run."""

from hc_jax.ablate.running import records
from hc_jax.ablate.sweep import Group
from tests.ablate.conftest import result


def test_each_run_has_a_row_of_its_own_facts():
  made = [
    result(Group("residual", 0.01, True), [2.0, 3.0], (None, 3), params=1000),
    result(Group("dhc2", 0.1, True), [4.0, 5.0], params=1100),
  ]
  rows = records.rows(made)
  names = ("arm", "learning_rate", "seed", "status", "diverged_at", "val/loss", "branch_init")
  assert [tuple(row[name] for name in names) for row in rows] == [
    ("residual", 0.01, 0, "finished", None, 2.0, "branches 0"),
    ("residual", 0.01, 1, "diverged", 3, None, "branches 1"),
    ("dhc2", 0.1, 0, "finished", None, 4.0, "branches 0"),
    ("dhc2", 0.1, 1, "finished", None, 5.0, "branches 1"),
  ]
  assert [row["params"] for row in rows] == [1000, 1000, 1100, 1100]
  # A run that diverged keeps the measurements from before.
  assert rows[1]["train"] == {"step": [1, 2], "loss": [6.0, 5.0]}
  assert rows[1]["val"]["step"] == [0, 2] and made[0].curves[1].final is None
  # Texts about the costs belong in the report only.
  assert not {"flops_of", "together", "memory_of"} & set(rows[0])
