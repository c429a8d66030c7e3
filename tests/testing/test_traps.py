"""Tests that the package falls into no trap, and that selftest prints its results."""

import dataclasses

import pytest

from hc_jax import cli
from hc_jax.testing import TRAPS, NotApplicable, Subject
from hc_jax.testing.traps import selftest
from tests.mutants.traps import MUTANTS


def test_there_are_twenty_in_order():
  assert [trap.name for trap in TRAPS] == [f"T{i}" for i in range(1, 21)]


# Long traps: `.ci/run` runs them by `hc-jax selftest`; tests of conformance, decoding and options
# cover the same in parts.
LONG = ("T16", "T17", "T19")


@pytest.mark.parametrize(
  "trap",
  [pytest.param(trap, marks=[pytest.mark.exhaustive] * (trap.name in LONG)) for trap in TRAPS],
  ids=lambda trap: trap.name,
)
def test_the_package_does_not_fall_in(trap):
  trap.run(Subject())


def test_a_package_without_sinkhorn_has_no_trap_of_it():
  with pytest.raises(NotApplicable, match="no Sinkhorn variant"):
    TRAPS[3].run(Subject(mhc=None))


def crash(subject):
  raise TypeError("no such thing\nand a second line")


def test_selftest_prints_a_line_for_each_and_fails_if_one_does():
  mutant = next(m for m in MUTANTS if m.trap == "T12")
  crashing = dataclasses.replace(TRAPS[2], run=crash)
  lines = []
  subject = dataclasses.replace(mutant.subject, mhc=None)
  code = selftest.selftest(subject, [TRAPS[0], crashing, TRAPS[3], TRAPS[11]], lines.append)
  assert code == 1
  assert lines[0].startswith(f"{mutant.name} on JAX ")
  assert [line.split()[:2] for line in lines[1:-1]] == [
    ["T1", "pass"],
    ["T3", "FAIL"],
    ["T4", "skip"],
    ["T12", "FAIL"],
  ]
  assert lines[2].endswith("streams collapsed per block: it raised TypeError: no such thing")
  assert "no Sinkhorn variant" in lines[3] and "by name, not by rank" in lines[4]
  assert lines[-1].startswith("1 pass, 2 FAIL, 1 skip in ")


@pytest.mark.parametrize(
  "trap, code", [(TRAPS[0], 0), (dataclasses.replace(TRAPS[0], run=crash), 1)]
)
def test_the_command_exits_with_what_was_found(trap, code, capsys, monkeypatch):
  monkeypatch.setattr(selftest.selftest, "__defaults__", (None, (trap,), print))
  assert cli.main(["selftest"]) == code
  assert f"T1  {'FAIL' if code else 'pass'}" in capsys.readouterr().out
