"""Profiler traces of a few chosen steps."""

import os
from typing import Any

import jax

from hc_jax.errors import UserError


class Profile:
  """Tracer of the steps START <= step < STOP, which writes to `<workdir>/profile`."""

  def __init__(self, spec: str, workdir: str) -> None:
    """Parses `spec`.

    Args:
      spec: "START:STOP"; "" traces nothing.
      workdir: folder of the run.

    Raises:
      UserError: `spec` is neither "" nor "START:STOP" with 1 <= START < STOP.
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
    """Starts the trace if it is due. Call it before launching step number `step` (from 1)."""
    if step in self._steps and not self._on:
      jax.profiler.start_trace(self._folder)
      self._on = True

  def after(self, step: int, state: Any) -> bool:
    """Ends the trace if it is due. Call it after launching the step; True if it wrote a trace."""
    if not self._on or step + 1 in self._steps:
      return False
    jax.block_until_ready(state)
    self.close()
    return True

  def close(self) -> None:
    """Writes the trace if one has started."""
    if self._on:
      self._on = False
      jax.profiler.stop_trace()
