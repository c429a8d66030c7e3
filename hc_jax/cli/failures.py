"""Why a command failed: one line on stderr, and its exit code."""

import sys

from hc_jax import environment, output, terminal
from hc_jax.runs.errors import Stopped


def say(error: Exception) -> int:
  """Says in one line why a command failed; returns its exit code. Raises a mistake of ours."""
  code = told(error)
  if code is None:
    raise error
  return code


def told(error: Exception) -> int | None:
  """Says in one line why a command failed; returns its exit code, None for a mistake of ours."""
  code = getattr(error, "exit_code", None)
  if code is None:
    reason = environment.fault(error)
    if reason is None:
      return None
    error, code = reason, 2
  words = "" if isinstance(error, Stopped) else "error: "
  output.write_line(words + terminal.escape(str(error)), sys.stderr)
  return code
