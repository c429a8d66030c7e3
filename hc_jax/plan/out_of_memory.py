"""When the device's memory does not suffice: one message that says what helps."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from hc_jax.plan.planning import make_plan
from hc_jax.plan.table import plan_lines
from hc_jax.runs.errors import OutOfMemoryError, memory_cause

ALL = "make batches of fewer rows, or split the model over more devices"


@contextlib.contextmanager
def out_of_memory(needs: Callable[[], Sequence[str]] | None = None) -> Iterator[None]:
  """Turns the device's "out of memory" into what helps.

  Args:
    needs: gives what helps, in the first line, and further lines about what the run needs.

  Raises:
    OutOfMemoryError: for it; anything else passes unchanged.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    reason = memory_cause(error)
    if reason is None:
      raise
    helps, *lines = [ALL] if needs is None else needs()
    raise OutOfMemoryError(
      f"the device ran out of memory ({reason[:160]}). {helps}. Checkpoints are untouched; the "
      "same command with such a setting resumes" + "".join(f"\n{line}" for line in lines)
    ) from error


def needs_of(config: Any, mesh: Mesh) -> list[str]:
  """Returns the settings of a language model that help most, and the lines of its plan."""
  train, parts = config.train, config.train.accumulation
  divisor = next((n for n in range(2 * parts, train.batch_size + 1) if not train.batch_size % n), 0)
  helps = [
    f"train.accumulation={divisor} (now {parts}: the same batch in smaller parts)"
    if divisor
    else "",
    f"model.remat=full (now {config.model.remat}: computes again what others keep)"
    if config.model.remat != "full"
    else "",
    f"a smaller train.batch_size (now {train.batch_size}) or data.length (now "
    f"{config.data.length}), which make another run and want another `workdir`",
  ]
  return [
    "What helps most, in this order: " + "; ".join(filter(None, helps)),
    *_table(config, mesh),
  ]


def _table(config: Any, mesh: Mesh) -> list[str]:
  """Returns what the plan says; it must not hide the message by failing."""
  try:
    memory = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    lines = plan_lines(make_plan(config, dict(mesh.shape), memory))
  except Exception as error:
    return [f"(hc-jax plan fails as well: {error})"]
  return ["", "what this run needs, by hc-jax plan:", "", *lines]
