"""Every trap finds the mutants made for it, so none of them is a test that cannot fail."""

import pytest

from hc_jax.testing.mutants import MUTANTS
from hc_jax.testing.traps import TRAPS

BY_NAME = {trap.name: trap for trap in TRAPS}
# What compiles gradients of a network, or gets far in a long trap before it is found.
SLOW = {
  "dynamic part detached",
  "qk_norm ignored",
  "another mix under scan",
  "a wrong hand-written derivative",
  "streams that drift in bf16",
  "decoding forgets positions",
}


def case(mutant):
  marks = [pytest.mark.slow] if mutant.name in SLOW else []
  return pytest.param(mutant, id=f"{mutant.trap}-{mutant.name}".replace(" ", "-"), marks=marks)


def test_each_trap_has_one():
  assert {mutant.trap for mutant in MUTANTS} == set(BY_NAME)
  names = [mutant.name for mutant in MUTANTS]
  assert len(set(names)) == len(names)
  assert set(names) >= SLOW


@pytest.mark.parametrize("mutant", [case(mutant) for mutant in MUTANTS])
def test_a_mutant_is_found(mutant):
  with pytest.raises(AssertionError) as found:
    BY_NAME[mutant.trap].run(mutant.subject)
  assert 20 < len(str(found.value)) < 300 and "\n" not in str(found.value)
