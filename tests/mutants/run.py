"""Running of all mutants, each with the test that must find it."""

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

from hc_jax.testing.conformance.suite import CONFORMANCE
from hc_jax.testing.traps.selftest import examine
from hc_jax.testing.traps.table import TRAPS, Trap
from tests.mutants.conformance import WRONG_CONNECTIONS
from tests.mutants.traps import MUTANTS

Case = tuple[str, Trap, Any]
_say = functools.partial(print, flush=True)


def cases() -> list[Case]:
  """Returns each mutant as (mistake in words, test that must find it, subject)."""
  traps = {trap.name: trap for trap in (*TRAPS, *CONFORMANCE)}
  return [
    *((m.name, traps[m.trap], m.subject) for m in MUTANTS),
    *((w.name, traps[w.check], w.candidate) for w in WRONG_CONNECTIONS),
  ]


def mutation_run(chosen: Iterable[Case] | None = None, log: Callable[[str], None] = _say) -> int:
  """Tries the mutants one by one, and prints a table with the test that finds each.

  Returns:
    1 if a mutant survives, else 0.
  """
  start, counts = time.perf_counter(), {"FAIL": 0, "pass": 0, "skip": 0}
  log(f"{'mistake':<42} {'found by':<9} what it says")
  for name, trap, subject in cases() if chosen is None else chosen:
    state, why = examine(trap, subject)
    counts[state] += 1
    who = {"FAIL": trap.name, "pass": "NOBODY", "skip": "skip"}[state]
    log(f"{name:<42} {who:<9} {why or trap.title}")
  tried = counts["FAIL"] + counts["pass"]
  skipped = f", {counts['skip']} skipped" * bool(counts["skip"])
  log(f"{counts['FAIL']} of {tried} found{skipped} in {time.perf_counter() - start:.0f} s")
  return 1 if counts["pass"] else 0
