"""Tests that every trap finds the mutants made for it, so that no trap always passes."""

import pytest

from hc_jax.testing.traps.table import TRAPS
from tests.mutants.traps import MUTANTS

BY_NAME = {trap.name: trap for trap in TRAPS}
# The quickest mutant of each trap, for `make test`; `make mutants` tries all mutants.
CANARIES = {
  "T1": "mix dropped",
  "T2": "mix transposed",
  "T3": "streams averaged after each feed-forward",
  "T4": "Sinkhorn over an axis of one",
  "T5": "norm, then sum",
  "T6": "reduce is the mean",
  "T7": "index of the block",
  "T8": "sigmoid over write",
  "T9": "dynamic scale of one",
  "T10": "always RMSNorm",
  "T11": "tanh missing",
  "T12": "decay by rank",
  "T13": "coefficients rounded to bf16",
  "T14": "not finite at init",
  "T15": "no dropout",
  "T16": "dynamic part detached",
  "T17": "norm ignored",
  "T18": "mean over tokens",
  "T19": "shared dynamic projection",
  "T20": "half a residual with one stream",
}


def case(mutant):
  marks = [] if CANARIES[mutant.trap] == mutant.name else [pytest.mark.exhaustive]
  return pytest.param(mutant, id=f"{mutant.trap}-{mutant.name}".replace(" ", "-"), marks=marks)


def test_each_trap_has_one_and_a_canary():
  assert {mutant.trap for mutant in MUTANTS} == set(BY_NAME)
  names = [mutant.name for mutant in MUTANTS]
  assert len(set(names)) == len(names)
  assert set(CANARIES.items()) <= {(mutant.trap, mutant.name) for mutant in MUTANTS}


@pytest.mark.parametrize("mutant", [case(mutant) for mutant in MUTANTS])
def test_a_mutant_is_found(mutant):
  with pytest.raises(AssertionError) as found:
    BY_NAME[mutant.trap].run(mutant.subject)
  assert 20 < len(str(found.value)) < 300 and "\n" not in str(found.value)
