"""`hc-jax selftest`: runs all traps on the installed package."""

import time
from collections.abc import Callable, Sequence

import jax

from hc_jax.testing.traps.table import TRAPS, NotApplicable, Subject, Trap


def selftest(
  subject: Subject | None = None,
  traps: Sequence[Trap] = TRAPS,
  log: Callable[[str], None] = print,
) -> int:
  """Runs traps and prints a line for each.

  Args:
    subject: things under test; those of this package by default.
    traps: traps to run.
    log: function that receives each line.

  Returns:
    1 if a trap failed, else 0.
  """
  subject = Subject() if subject is None else subject
  device = jax.devices()[0].device_kind
  log(f"{subject.name} on JAX {jax.__version__}, {device}: is the wiring right?")
  counts = {"pass": 0, "FAIL": 0, "skip": 0}
  start = time.perf_counter()
  for trap in traps:
    began = time.perf_counter()
    state, why = examine(trap, subject)
    counts[state] += 1
    seconds = time.perf_counter() - began
    log(f"{trap.name:<4}{state}  {seconds:5.1f} s  {trap.title}{why and f': {why}'}")
  total = ", ".join(f"{count} {state}" for state, count in counts.items())
  log(f"{total} in {time.perf_counter() - start:.0f} s")
  return 1 if counts["FAIL"] else 0


def examine(trap: Trap, subject: Subject) -> tuple[str, str]:
  """Runs one trap and returns `("pass" | "FAIL" | "skip", why)`; an exception is a failure too."""
  try:
    trap.run(subject)
  except NotApplicable as reason:
    return "skip", f"not applicable: {reason}"
  except AssertionError as error:
    return "FAIL", str(error)
  except Exception as error:  # a broken subject may raise anything
    first = (str(error).strip().splitlines() or [""])[0]
    return "FAIL", f"it raised {type(error).__name__}: {first}"
  return "pass", ""
