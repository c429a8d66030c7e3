"""When the device's memory does not suffice: one message that says what helps."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from hc_jax.plan.planning import make_plan
from hc_jax.plan.table import plan_lines
from hc_jax.runs.errors import OutOfMemoryError, memory_cause


@contextlib.contextmanager
def out_of_memory(config: Any, mesh: Mesh) -> Iterator[None]:
  """Turns the device's "out of memory" into the settings that help most, and the plan's table.

  Raises:
    OutOfMemoryError: in its place; anything else passes unchanged.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    reason = memory_cause(error)
    if reason is None:
      raise
    train, parts = config.train, config.train.accumulation
    divisor = next(
      (n for n in range(2 * parts, train.batch_size + 1) if not train.batch_size % n), 0
    )
    helps = [
      f"train.accumulation={divisor} (now {parts}: the same batch in smaller parts)"
      if divisor
      else "",
      f"model.remat=full (now {config.model.remat}: computes again in place of keeping)"
      if config.model.remat != "full"
      else "",
      f"a smaller train.batch_size (now {train.batch_size}) or data.length (now "
      f"{config.data.length}), which make another run and want another --workdir",
    ]
    raise OutOfMemoryError(
      f"the device ran out of memory ({reason[:160]}). What helps most, in this order: "
      + "; ".join(filter(None, helps))
      + ". Checkpoints are untouched; the same command with such a setting resumes"
      + _table(config, mesh)
    ) from error


def _table(config: Any, mesh: Mesh) -> str:
  """What the plan says, to be put behind a message; it must not hide the message by failing."""
  try:
    memory = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    lines = plan_lines(make_plan(config, dict(mesh.shape), memory))
  except Exception as error:
    return f"\n(hc-jax plan fails as well: {error})"
  return "\n\n" + "\n".join(["what this run needs, by hc-jax plan:", "", *lines])
