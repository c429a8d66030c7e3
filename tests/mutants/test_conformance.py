"""Tests that every conformance check finds the wrong connections made for it."""

import pytest

from hc_jax.testing.conformance.suite import CONFORMANCE
from hc_jax.testing.traps.selftest import examine
from tests.mutants.conformance import WRONG_CONNECTIONS

CHECKS = {check.name: check for check in CONFORMANCE}
# Checks of a single site, which fail quickly.
CANARIES = {"counts", "maps", "claims", "bf16", "value", "whole", "empty", "x64", "jvp"}


def case(wrong):
  marks = [] if wrong.check in CANARIES else [pytest.mark.exhaustive]
  return pytest.param(wrong, id=f"{wrong.check}-{wrong.name}".replace(" ", "-"), marks=marks)


def test_each_check_has_one():
  assert {wrong.check for wrong in WRONG_CONNECTIONS} == set(CHECKS) > CANARIES


@pytest.mark.parametrize("wrong", [case(wrong) for wrong in WRONG_CONNECTIONS])
def test_a_wrong_connection_is_found(wrong):
  state, why = examine(CHECKS[wrong.check], wrong.candidate)
  assert state == "FAIL" and 20 < len(why) < 400 and "\n" not in why
