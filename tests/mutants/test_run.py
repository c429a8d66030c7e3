"""Tests that `make mutants` prints which test finds a mutant, and fails if one survives."""

from hc_jax.testing.traps.table import Subject
from tests.mutants import run

BY_NAME = {name: (name, trap, subject) for name, trap, subject in run.cases()}


def test_the_run_says_who_finds_what():
  said = []
  assert run.mutation_run([BY_NAME["write drops mix"]], log=said.append) == 0
  assert said[1].split()[:4] == ["write", "drops", "mix", "T1"]
  assert said[-1].startswith("1 of 1 found")


def test_a_mutant_that_survives_fails_the_run():
  said, (_, trap, _) = [], BY_NAME["write drops mix"]
  assert run.mutation_run([("no mistake", trap, Subject())], log=said.append) == 1
  assert "NOBODY" in said[1] and said[-1].startswith("0 of 1 found")
