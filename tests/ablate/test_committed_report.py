"""Tests of docs/ablation: its numbers, and those that pages quote, follow from results.jsonl."""

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
  """Returns the rows of results.jsonl by arm, in order of their seeds."""
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


def words(page):
  return " ".join((ROOT / page).read_text().split())


def processor_time(rows, arm):
  """Returns the processor time of a step over that of the residual network, two digits."""
  cpu = [np.mean([row["step_cpu_seconds"] for row in rows[name]]) for name in (arm, "residual")]
  return f"{cpu[0] / cpu[1]:.2f}"


@pytest.mark.parametrize("page", ["README.md", "docs/ablations.md"])
def test_pages_quote_the_difference_of_the_report(rows, page):
  pattern = r"([\d.]+) nats per token less[\w ]* with DHC×4 \(95 % interval ([\d.]+) to ([\d.]+)\)"
  found = difference(rows, "dhc4")
  want = (f"{-found.mean:.3f}", f"{-found.high:.3f}", f"{-found.low:.3f}")
  assert re.search(pattern, words(page)).groups() == want


def test_pages_quote_the_cost_and_the_other_arms_of_the_report(rows):
  quoted = re.search(r"in steps of ([\d.]+) times the processor time", words("docs/ablations.md"))
  assert quoted[1] == processor_time(rows, "dhc4")
  shc4, dhc2, dhc4 = (
    (f"{-difference(rows, arm).mean:.3f}", processor_time(rows, arm))
    for arm in ("shc4", "dhc2", "dhc4")
  )
  family = words("docs/family.md")
  assert f"({dhc2[0]} and {shc4[0]} nats per token against {dhc4[0]}," in family
  assert f"{dhc2[1]} and {shc4[1]} times the residual network's" in family
  others = f"{shc4[0]} and {dhc2[0]}, in steps of {shc4[1]} and {dhc2[1]} times"
  assert others in words("docs/ablations.md")


def test_results_compare_the_arms_with_each_other(rows):
  text, pairs = words("docs/results.md"), {"SHC×4": "shc4", "DHC×2": "dhc2", "DHC×4": "dhc4"}
  quoted = re.findall(r"\| (\S+) minus (\S+) \| (\S+) \[(\S+), (\S+)\] \|", text)
  assert len(quoted) == 3
  for a, b, *numbers in quoted:
    found = paired_difference(*([row["val/loss"] for row in rows[pairs[x]]] for x in (a, b)))
    assert [f"{x:.3f}" for x in (found.mean, found.low, found.high)] == numbers
    assert found.low < 0 < found.high
  for name, arm in pairs.items():
    found = difference(rows, arm)
    want = f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"
    assert re.search(rf"\| {name} \|[^|]*\| {re.escape(want)} \|", text)
    assert f"| {processor_time(rows, arm)} |" in text
