"""The numbers of docs/ablation, and what README quotes of them, computed from its results.jsonl."""

import json
import pathlib
import re

import numpy as np
import pytest

from hc_jax.ablate.reporting.statistics import mean_and_sd, paired_difference

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "ablation"


@pytest.fixture(scope="module")
def rows():
  """Rows of results.jsonl by arm, in order of their seeds."""
  found = {}
  for line in (FOLDER / "results.jsonl").read_text().splitlines():
    row = json.loads(line)
    found.setdefault(row["arm"], []).append(row)
  return {arm: sorted(rows, key=lambda row: row["seed"]) for arm, rows in found.items()}


def difference(rows, arm):
  finals = [[row["val/loss"] for row in rows[name]] for name in (arm, "residual")]
  return paired_difference(*finals)


def test_every_report_has_its_results():
  assert FOLDER / "report.md" in (reports := list((ROOT / "docs").rglob("report.md")))
  assert all((report.parent / "results.jsonl").exists() for report in reports)


def test_the_report_is_that_of_its_results(rows):
  text = (FOLDER / "report.md").read_text()
  table = dict(re.findall(r"^\| `(\w+)` \|(.* of .*)\|$", text, re.M))
  assert set(table) == set(rows) > {"residual"}
  for arm, runs in rows.items():
    mean, sd = mean_and_sd([row["val/loss"] for row in runs])
    assert f"{mean:.4f} ± {sd:.4f}" in table[arm]
    if arm != "residual":
      found = difference(rows, arm)
      assert f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]" in table[arm]
    last = [row["val"]["loss"][-1] for row in runs]
    assert last == [row["val/loss"] for row in runs]
    assert len(runs[0]["train"]["loss"]) == runs[0]["train"]["step"][-1] == 400


def test_readme_quotes_the_report(rows):
  text = " ".join((ROOT / "README.md").read_text().split())
  pattern = (
    r"has ([\d.]+) nats per token less with DHC×4 \(95 % interval ([\d.]+) to ([\d.]+)\), in"
  )
  pattern += r" steps of ([\d.]+) times the processor time"
  quoted = re.search(pattern, text)
  found = difference(rows, "dhc4")
  cpu = [np.mean([row["step_cpu_seconds"] for row in rows[arm]]) for arm in ("dhc4", "residual")]
  want = (f"{-found.mean:.3f}", f"{-found.high:.3f}", f"{-found.low:.3f}", f"{cpu[0] / cpu[1]:.2f}")
  assert quoted.groups() == want
