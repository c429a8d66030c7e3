"""Failures of a command: one line on stderr, and an exit code."""

import sys

from hc_jax import environment, output, terminal
from hc_jax.runs.errors import Stopped


def say(error: Exception) -> int:
  """Prints in one line why a command failed, and returns its exit code; raises a bug of hc_jax."""
  code = told(error)
  if code is None:
    raise error
  return code


def told(error: Exception) -> int | None:
  """Prints in one line why a command failed, and returns its exit code; None for a bug."""
  code = getattr(error, "exit_code", None)
  if code is None:
    reason = environment.fault(error)
    if reason is None:
      return None
    error, code = reason, 2
  words = "" if isinstance(error, Stopped) else "error: "
  output.write_line(words + terminal.escape(str(error)), sys.stderr)
  return code
