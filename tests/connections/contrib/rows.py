"""Rows of the conformance suite for the variants of `hc_jax.connections.contrib`."""

import functools
from collections.abc import Mapping

import pytest

from hc_jax.connections import ConnectionLike
from hc_jax.testing.conformance.candidate import Candidate
from hc_jax.testing.conformance.suite import CONFORMANCE, NotApplicable, Trap

MAPS = ("counts", "maps", "grads", "claims")
# Of a network: several views are for attention alone, and no feed-forward takes them.
NETWORK = ("init", "index", "causal", "exact", "ways", "half", "decode", "learns", "once", "mesh")


def of(cases: Mapping[str, ConnectionLike]) -> list:
  """Returns a test parameter for each case and check.

  Maps of a variant with its defaults are slow. All other checks are exhaustive.
  """
  return [
    pytest.param(
      case,
      check,
      id=f"{case}-{check.name}",
      marks=pytest.mark.exhaustive if check.name not in MAPS or make.keywords else pytest.mark.slow,
    )
    for case, make in cases.items()
    for check in CONFORMANCE
    if not (check.name in NETWORK and "num_views" in make.keywords)
  ]


def run(cases: Mapping[str, ConnectionLike], case: str, check: Trap) -> None:
  """Runs a check, and skips it where it does not apply."""
  try:
    check.run(_candidate(case, cases[case]))
  except NotApplicable as reason:
    pytest.skip(str(reason))


@functools.cache
def _candidate(case: str, connection: ConnectionLike) -> Candidate:
  """One object for each case, so that its compiled code is shared."""
  return Candidate(case, connection)
