"""Tests of the report on made-up results: its numbers, and its conclusions in words."""

import re

import pytest

from hc_jax.ablate.reporting import report
from tests.ablate.conftest import DHC, RESIDUAL, result


@pytest.fixture(autouse=True)
def _quick(request):
  """Draws only the pictures of the page."""
  if "page" not in request.node.name:
    request.getfixturevalue("no_pictures")


@pytest.fixture
def write(make_sweep, tmp_path):
  """Returns `write({arm: (finals, ...)}, ...)`, which returns the report's text."""

  def run(finals, diverged=None, rates=(), costs=None, missing=()):
    arms = {name: RESIDUAL if name == "residual" else DHC for name in (*finals, *missing)}
    sweep = make_sweep(arms=arms, seeds=(0, 1, 2), learning_rates=rates)
    made = [
      result(
        group,
        finals[group.arm](group.learning_rate) if rates else finals[group.arm],
        (diverged or {}).get(group.arm, ()),
        **(costs or {}).get(group.arm, {}),
      )
      for group in sweep.groups()
      if group.arm in finals
    ]
    lines = []
    report.write_report(str(tmp_path), sweep, made, "hc-jax ablate x.py", lines.append)
    return (tmp_path / "report.md").read_text(), "\n".join(lines)

  return run


BASE = [2.0, 2.4, 2.2]


def test_arms_that_are_better_worse_and_neither(write):
  text, said = write(
    {
      "residual": BASE,
      "better": [1.9, 2.31, 2.09],
      "worse": [2.1, 2.51, 2.29],
      "same": [2.1, 2.3, 2.2],
    }
  )
  assert "| `residual` | 3 of 3 | 2.2000 ± 0.2000 | - | - | the baseline |" in text
  # the mean is (-0.1 - 0.09 - 0.11) / 3, the half width 4.303 * 0.01 / sqrt(3)
  better, worse = (text.split(f"| `{name}` |")[1].split("\n")[0] for name in ("better", "worse"))
  assert "-0.1000 [-0.1248, -0.0752] | lower than residual by 0.1000" in better
  assert "+0.1000 [+0.0752, +0.1248] | higher than residual by 0.1000" in worse
  assert re.search(r"`same`.*no difference seen: the interval -0\.2484 to \+0\.2484 incl", text)
  assert "**Every run saw 1,024 tokens**" in text and "very small model and a short run" in text
  assert "same      2.2000 ± 0.1000  no difference seen" in said


def test_an_arm_that_diverged_is_named_and_not_compared(write):
  text, _ = write({"residual": BASE, "wild": BASE}, {"wild": (None, 3, None)})
  assert "| `wild` | 2 of 3 | 2.1000 ± 0.1414 |" in text
  assert "diverged: 1 of 3 seeds (seed 1 at step 3); not compared" in text
  text, _ = write({"residual": BASE, "dhc2": BASE}, {"residual": (2, 2, 2)})
  assert "diverged: 3 of 3 seeds" in text and "not compared: residual diverged" in text


def test_convergence_and_costs_are_relative_to_the_baseline(write):
  text, _ = write(
    {"residual": BASE, "fast": [v - 1.5 for v in BASE], "slow": [v + 1 for v in BASE]},
    costs={"fast": {"flops_per_token": 6e3, "step_seconds": 0.03, "params": 1100}},
  )
  # Losses are final + 3, 2, 1, 0; smoothed they come down to the baseline's last one well before.
  found = re.search(r"`fast` reaches residual's final loss in 1/(\d\.\d\d) of the tokens", text)
  factor = float(found[1])
  assert 1.3 < factor < 4
  assert f"1/{factor / 1.2:.2f} of the FLOPs" in text
  assert "`slow` never reaches residual's final loss in this run." in text
  assert "1,100 (×1.10)" in text and "0.006 (×1.20)" in text and "30 (×3.00)" in text


def test_learning_rates_give_a_table_at_the_shared_one_and_one_at_each_best(write):
  text, _ = write(
    {
      "residual": lambda rate: [v + (rate != 0.01) for v in BASE],
      "dhc2": lambda rate: [v + rate for v in BASE],
      "fast": lambda rate: [v - rate for v in BASE],
    },
    rates=(0.001, 0.01, 0.1),
  )
  shared, best = text.split("## Each arm at its own best learning rate")
  assert "at the shared learning rate 0.01" in shared
  assert "| `dhc2` | 3 of 3 | 2.2100 ± 0.2000 |" in shared
  assert "| `residual` | 0.01 | 2.2000 ± 0.2000 |" in best
  assert "| `dhc2` | 0.001 (at the edge of the grid) | 2.2010 ± 0.2000 |" in best
  assert "| `fast` | 0.1 (at the edge of the grid) | 2.1000 ± 0.2000 |" in best


def test_bits_per_byte_are_those_of_the_last_evaluation(make_sweep, tmp_path):
  sweep = make_sweep(seeds=(0, 1, 2))
  made = [result(group, BASE) for group in sweep.groups()]
  for i, curves in enumerate(made[1].curves):
    curves.val["bpb"] = [9.0, 8.0, 1.5 + i]
  report.write_report(str(tmp_path), sweep, made, "x", lambda line: None)
  text = (tmp_path / "report.md").read_text()
  assert "| `dhc2` | 3 of 3 | 2.2000 ± 0.2000 | 2.5000 |" in text
  assert "| `residual` | 3 of 3 | 2.2000 ± 0.2000 | - |" in text


def test_arms_that_are_missing_and_arms_that_are_not_paired_are_named(write, make_sweep, tmp_path):
  text, _ = write({"residual": BASE}, missing=("late",))
  assert "**Not finished yet, and missing here: late.**" in text
  sweep = make_sweep(seeds=(0, 1, 2))
  made = [result(group, BASE) for group in sweep.groups()]
  made[1].branch_init[2] = "other"  # one seed is enough
  report.write_report(str(tmp_path), sweep, made, "x", lambda line: None)
  text = (tmp_path / "report.md").read_text()
  assert "differ from residual's in: dhc2" in text and "not paired" not in text
  made[1].first_batch[2] = "other"
  report.write_report(str(tmp_path), sweep, made, "x", lambda line: None)
  assert "**The first batches of dhc2 differ" in (tmp_path / "report.md").read_text()


def test_a_busy_machine_is_owned_up_to(make_sweep, tmp_path):
  sweep = make_sweep(seeds=(0, 1, 2))
  made = [result(group, BASE) for group in sweep.groups()]
  for load in (1.0, 2.9):  # on two cores
    made[0].provenance["load"] = load
    report.write_report(str(tmp_path), sweep, made, "x", lambda line: None)
    assert "Other programs ran" not in (tmp_path / "report.md").read_text()
  made[0].provenance["load"] = 3.1
  report.write_report(str(tmp_path), sweep, made, "x", lambda line: None)
  assert "Other programs ran on the machine" in (tmp_path / "report.md").read_text()


def test_the_page_needs_no_other_file(write, tmp_path):
  write({"residual": BASE, "<dhc>": BASE})
  page = (tmp_path / "report.html").read_text()
  assert page.count("data:image/png;base64,") == 4
  assert not re.search(r"(src|href)=\"(?!data:)", page) and "<script" not in page
  assert "&lt;dhc&gt;" in page and "<dhc>" not in page
