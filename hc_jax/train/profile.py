"""A trace of a few steps, on request."""

import os
from typing import Any

import jax

from hc_jax.errors import UserError


class Profile:
  """Traces the steps START <= step < STOP of a spec into `<workdir>/profile`."""

  def __init__(self, spec: str, workdir: str) -> None:
    """Reads the spec.

    Raises:
      UserError: it is neither "" nor "START:STOP" with 1 <= START < STOP.
    """
    self._folder = os.path.join(workdir, "profile")
    self._steps, self._on = range(0), False
    if not spec:
      return
    start, _, stop = spec.partition(":")
    if not (start.isdecimal() and stop.isdecimal() and 1 <= int(start) < int(stop)):
      raise UserError(
        f"`profile={spec!r}`: give START:STOP, two steps with 1 <= START < STOP, as in 10:13"
      )
    self._steps = range(int(start), int(stop))

  def before(self, step: int) -> None:
    """Call before step number `step` (from 1) is launched."""
    if step in self._steps and not self._on:
      jax.profiler.start_trace(self._folder)
      self._on = True

  def after(self, step: int, state: Any) -> bool:
    """Call after it is launched; true when a trace was written just now."""
    if not self._on or step + 1 in self._steps:
      return False
    jax.block_until_ready(state)
    self.close()
    return True

  def close(self) -> None:
    """Writes the trace if one is under way."""
    if self._on:
      self._on = False
      jax.profiler.stop_trace()
