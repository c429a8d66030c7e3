"""Training of an arm's seeds in one program: the trainer's loop with a step mapped over seeds."""

import contextlib
import dataclasses
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hc_jax import config as config_lib
from hc_jax import folders
from hc_jax.ablate.running.curves import curves_of
from hc_jax.ablate.running.record_types import check_progress
from hc_jax.ablate.running.records import Curves
from hc_jax.errors import UserError
from hc_jax.processes.agreement import Agreement
from hc_jax.processes.signals import StopSignal
from hc_jax.runs import checkpoint, restore
from hc_jax.runs.metrics import Metrics, read_metrics
from hc_jax.train.console import Console, duration
from hc_jax.train.loop import Loop, Record
from hc_jax.train.profile import Profile
from hc_jax.train.program import Program, memory_bytes
from hc_jax.train.start import check_identity


@dataclasses.dataclass(frozen=True)
class Trained:
  """Results of training the seeds of an arm.

  Attributes:
    curves: curves of each seed, in order.
    costs: measured times and memory by name.
  """

  curves: list[Curves]
  costs: dict[str, Any]


class ArmConsole(Console):
  """A console that prints only the evaluations of an arm, not its steps and checkpoints."""

  def __init__(self, program: Program, log: Callable[[str], None]) -> None:
    super().__init__(program.settings.num_steps, program.task.unit)
    self._log, self._best, self._eta = log, program.task.best, 0.0

  def say(self, line: str, progress: bool = False) -> None:
    """Passes a line to the sweep's log."""
    del progress
    self._log(f"  {line}")

  def train(self, step: int, rows: Sequence[Mapping[str, Any]], eta: float) -> None:
    """Stores the remaining time, which the next evaluation prints."""
    self._eta = eta

  def eval(self, step: int, values: Sequence[Mapping[str, float]], seconds: float) -> None:
    """Prints the value of each seed by which arms are compared."""
    losses = " ".join(f"{row[self._best]:.4f}" for row in values)
    total = f"{self._total:,}"
    eta = duration(self._eta) if step else "-"
    self.say(f"step {step:>{len(total)},}/{total}  eta {eta:<8} val {losses}")

  def saved(self, step: int, seconds: float, waited: float) -> None:
    """Prints nothing."""

  def finished(self, step: int, seconds: float, apart: Mapping[str, float], workdir: str) -> None:
    """Prints nothing."""


def train_together(
  program: Program,
  folder: str,
  stop: StopSignal,
  log: Callable[[str], None],
  config: Mapping[str, Any] | None = None,
  workers: int = 1,
  save_last: bool = False,
) -> Trained:
  """Trains all seeds of a program to the end, from the newest checkpoint if there is one.

  If a seed diverges, its step is recorded and the others continue. Each seed's rows are in
  `folder/seed-<seed>/metrics.jsonl`.

  Args:
    program: program of all seeds, on one device.
    folder: existing folder of the arm.
    stop: signal that ends training early.
    log: function that receives each printed line.
    config: config for the checkpoint's card, as nested groups of JSON values.
    workers: number of threads that read batches ahead.
    save_last: whether to save the last step, so that a finished arm is not trained again.

  Raises:
    Stopped: if SIGTERM or SIGINT arrived; a checkpoint was saved.
    UserError: if the checkpoint in the folder belongs to other seeds, another task or other data.
    StorageError: if a file could not be read or written.
  """
  task, seeds = program.task, program.seeds
  identity = config_lib.plain(task.identity)
  state, start, saved, diverged = _begin(program, folder, identity, log)
  console = ArmConsole(program, log)
  card = checkpoint.make_card(task.name, config or {}, identity)
  card["seeds"] = list(seeds)
  with contextlib.ExitStack() as held:
    checkpoints = held.enter_context(checkpoint.Checkpoints(folder, 1))
    records = []
    for seed, at in zip(seeds, diverged, strict=True):
      run = folders.make_folder(folder, f"seed-{seed}")
      metrics = held.enter_context(Metrics(run, start or None, log=lambda _: None))
      records.append(Record(metrics, at))
    profile = Profile(program.settings.profile, folder)
    loop = Loop(program, folder, checkpoints, records, profile, console, card, workers, save_last)
    with loop.compilations:
      loop.run(state, start, saved, Agreement(stop, program.mesh))
  rows = [read_metrics(os.path.join(folder, f"seed-{seed}")) for seed in seeds]
  curves = [
    curves_of(own, record.diverged, task.best) for own, record in zip(rows, records, strict=True)
  ]
  return Trained(curves, _costs(loop, curves, rows, len(seeds)))


def _begin(
  program: Program, folder: str, identity: Mapping[str, Any], log: Callable[[str], None]
) -> tuple[Any, int, int | None, list[int | None]]:
  """Returns first state, its step, the newest checkpoint's step, and when each seed diverged."""
  restored = restore.restore_newest(folder, program.abstract, log=log)
  if restored is None:
    return program.first_state(), 0, None, [None] * len(program.seeds)
  state, card = restored
  try:
    check_progress(card, program.seeds)
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{folder} holds no arm to continue ({error}); remove it") from error
  if card["task"] != program.task.name:
    raise UserError(
      f"{folder} holds the task {card['task']!r}, but this is {program.task.name!r}; choose "
      "another folder"
    )
  check_identity(folder, card["data"], identity, "out")
  log(f"  resumed at step {card['step']:,}")
  return state, card["step"], card["step"], card["diverged"]


def _costs(
  loop: Loop, curves: Sequence[Curves], rows: Sequence[Sequence[Mapping[str, Any]]], count: int
) -> dict[str, Any]:
  """Returns measured times and memory; times of a step are medians over the rows' means."""
  together = f"{count} seeds together" if count > 1 else "one seed"
  longest = max(rows, key=len)
  measured = {
    name: [row[f"perf/{name}"] for row in longest if f"perf/{name}" in row]
    for name in ("step_s", "step_cpu_s", "tokens_per_s")
  }
  step, cpu, rate = (statistics.median(m) if m else None for m in measured.values())
  memory = None if loop.steps is None else memory_bytes(loop.steps.compiled.train)
  return {
    "together": together,
    "step_seconds": step,
    "step_cpu_seconds": cpu,
    "tokens_per_s": rate,
    "training_seconds": max((c.val["seconds"][-1] for c in curves if c.val["seconds"]), default=0),
    "compile_seconds": loop.clock.apart["compile"],
    "memory_bytes": None if memory is None else memory / count,
    "memory_of": f"compiled training step of {together}, as planned by XLA, per seed",
  }
