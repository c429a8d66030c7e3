"""The message for a device that runs out of memory, with the settings that help."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from hc_jax.plan.planning import make_plan
from hc_jax.plan.table import plan_lines
from hc_jax.runs.errors import OutOfMemoryError, memory_cause

ALL = "Use batches of fewer rows, or split the model over more devices"


@contextlib.contextmanager
def out_of_memory(needs: Callable[[], Sequence[str]] | None = None) -> Iterator[None]:
  """Turns the device's "out of memory" into an error that says what helps.

  Args:
    needs: function that returns lines: first the settings that help, then the needs of the run.

  Raises:
    OutOfMemoryError: if the body runs out of device memory. Other errors pass unchanged.
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
      "same command with such a setting resumes the run" + "".join(f"\n{line}" for line in lines)
    ) from error


def needs_of(config: Any, mesh: Mesh) -> list[str]:
  """Returns the settings of a language model that help most, and then the lines of its plan."""
  train, parts = config.train, config.train.accumulation
  divisor = next((n for n in range(2 * parts, train.batch_size + 1) if not train.batch_size % n), 0)
  helps = [
    f"train.accumulation={divisor} (now {parts}; the same batch in smaller parts)"
    if divisor
    else "",
    f"model.remat=full (now {config.model.remat}; recomputes activations instead of keeping them)"
    if config.model.remat != "full"
    else "",
    f"a smaller train.batch_size (now {train.batch_size}) or data.length (now "
    f"{config.data.length}), which make another run and need another `workdir`",
  ]
  return [
    "What helps most, in this order: " + "; ".join(filter(None, helps)),
    *_table(config, mesh),
  ]


def _table(config: Any, mesh: Mesh) -> list[str]:
  """Returns the lines of the plan; a failure of the plan must not hide the message."""
  try:
    memory = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    lines = plan_lines(make_plan(config, dict(mesh.shape), memory))
  except Exception as error:
    return [f"(hc-jax plan fails too: {error})"]
  return ["", "Needs of this run, by hc-jax plan:", "", *lines]
