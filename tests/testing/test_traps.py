"""The package falls into no trap, and selftest says what it found."""

import dataclasses

import pytest

from hc_jax import cli
from hc_jax.testing import mutation, selftest
from hc_jax.testing.mutants import MUTANTS
from hc_jax.testing.traps import TRAPS, NotApplicable, Subject


def test_there_are_twenty_in_order():
  assert [trap.name for trap in TRAPS] == [f"T{i}" for i in range(1, 21)]


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.name)
def test_the_package_does_not_fall_in(trap):
  trap.run(Subject())


def test_a_package_without_sinkhorn_has_no_trap_of_it():
  with pytest.raises(NotApplicable, match="no variant with Sinkhorn"):
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
  assert "no variant with Sinkhorn" in lines[3] and "go by name, not by rank" in lines[4]
  assert lines[-1].startswith("1 pass, 2 FAIL, 1 skip in ")


@pytest.mark.parametrize(
  "trap, code", [(TRAPS[0], 0), (dataclasses.replace(TRAPS[0], run=crash), 1)]
)
def test_the_command_exits_with_what_was_found(trap, code, capsys, monkeypatch):
  monkeypatch.setattr(selftest.selftest, "__defaults__", (None, (trap,), print))
  assert cli.main(["selftest"]) == code
  assert f"T1  {'FAIL' if code else 'pass'}" in capsys.readouterr().out


def test_the_mutation_run_says_who_finds_what_and_who_survives(capsys, monkeypatch):
  by_name = {name: (name, trap, subject) for name, trap, subject in mutation.cases()}
  dropped = by_name["write drops mix"]
  monkeypatch.setattr(mutation, "cases", lambda: [dropped])
  assert cli.main(["selftest", "--mutants"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].split()[:4] == ["write", "drops", "mix", "T1"]
  assert lines[-1].startswith("1 of 1 found")
  said = []
  assert mutation.mutation_run([("no mistake", dropped[1], Subject())], log=said.append) == 1
  assert "NOBODY" in said[1] and said[-1].startswith("0 of 1 found")
