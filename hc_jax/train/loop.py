"""The training loop of one run, or of several runs that one program trains together."""

import dataclasses
import math
from typing import Any

import jax

from hc_jax.processes.agreement import Agreement
from hc_jax.runs import checkpoint
from hc_jax.runs.errors import NonFiniteError, Stopped
from hc_jax.runs.metrics import Metrics, NoMetrics
from hc_jax.step.state import TrainState
from hc_jax.train.compilations import Compilations
from hc_jax.train.console import Clock, Console
from hc_jax.train.debug_nans import find_nonfinite
from hc_jax.train.profile import Profile
from hc_jax.train.program import Program, Steps, compile_steps


@dataclasses.dataclass
class Record:
  """Record of one run of a loop.

  Attributes:
    metrics: writer of the run's rows.
    diverged: first step with a number that is not finite; None if there is none.
  """

  metrics: Metrics | NoMetrics
  diverged: int | None = None


class Loop:
  """Loop that takes the steps of a program, and logs, evaluates and saves between them.

  If the program trains one run and it diverges, the loop raises NonFiniteError. If it trains
  several, the loop records which run diverged, and the others continue.
  """

  def __init__(
    self,
    program: Program,
    workdir: str,
    checkpoints: checkpoint.Checkpoints,
    records: list[Record],
    profile: Profile,
    console: Console,
    card: dict[str, Any],
    workers: int = 1,
    save_last: bool = True,
  ) -> None:
    """Prepares the loop; `run` compiles the program.

    Args:
      program: program of the runs.
      workdir: folder of the run.
      checkpoints: writer of checkpoints in that folder.
      records: one record for each run of the program.
      profile: tracer of the steps that the user chose.
      console: writer of the console lines.
      card: JSON values stored with every checkpoint.
      workers: number of threads that read batches ahead.
      save_last: whether to save a checkpoint after the last step.
    """
    self._program, self._workdir, self._card = program, workdir, card
    self._task, self._settings = program.task, program.settings
    self._checkpoints, self._records, self._profile = checkpoints, records, profile
    self._console, self._workers, self._save_last = console, workers, save_last
    self._pending: tuple[int, dict[str, jax.Array], jax.Array | None] | None = None
    self._before: tuple[TrainState, Any] | None = None
    self.clock, self.compilations, self._programs = Clock(), Compilations(), 0
    self._done, self._row_done = 0, 0  # steps since this start: now, and at the last row
    self.seconds = self._cpu = self._row_seconds = self._row_cpu = 0.0
    self.steps: Steps | None = None

  def run(self, state: TrainState, start: int, saved: int | None, stop: Agreement) -> TrainState:
    """Takes the steps after `start`.

    Args:
      state: state after `start` steps.
      start: number of steps taken already.
      saved: step of the newest checkpoint; None if there is none.
      stop: agreement of the processes on when to stop early.

    Returns:
      The state after the last step.

    Raises:
      Stopped: a signal asked the run to stop; the state is saved.
      NonFiniteError: the only run of the program diverged.
      StorageError: a file could not be written.
    """
    settings, self._stop, step = self._settings, stop, start
    if start >= settings.num_steps:
      self._console.say(f"finished already, at step {start:,}; raise `num_steps` to continue")
      return state
    batches = self._program.batches(start, self._workers)
    batch = next(batches)
    self.steps = steps = self._compile(state, batch)
    if saved is None and "fork" in self._card:  # so that the fork never needs its source again
      self._save(state, start)
      saved = start
    stop.count(stop.cast())
    if start == 0 and settings.eval_every and not stop.requested:
      self._write(0, [{} for _ in self._records], self._evaluate(state, 0))
    self.clock.lap()

    while step < settings.num_steps and not stop.requested and self._alive():
      self._profile.before(step + 1)
      if settings.debug_nans:
        self._before = (state, batch)
      with jax.transfer_guard("disallow"):
        state, launched = steps.train(state, batch)
      step += 1
      vote = stop.cast()
      if step < settings.num_steps:
        batch = next(batches)
      self._settle()  # reads the step before, so that the devices never wait for the host
      self._pending = (step, launched, vote)
      if self._profile.after(step, state):
        self._console.say(f"trace written to {self._workdir}/profile")
      saved = self._between(state, step) or saved

    self._profile.close()
    if step < settings.num_steps and self._alive():
      self._end_early(state, step, saved)
    self._settle()
    self._checkpoints.wait()
    self._console.finished(step, self.seconds, self.clock.apart, self._workdir)
    return state

  def _between(self, state: TrainState, step: int) -> int | None:
    """Evaluates, computes telemetry and saves when due; returns the step if it was saved."""
    settings, ends = self._settings, step == self._settings.num_steps
    evaluates = ends or (settings.eval_every and step % settings.eval_every == 0)
    saves = (ends and self._save_last) or (not ends and step % settings.checkpoint_every == 0)
    looks = self.steps.compiled.look is not None and step % settings.telemetry_every == 0
    if evaluates or saves or looks or settings.debug_nans:
      values = self._settle(state if evaluates else None, state if looks else None)
    if not saves:
      return None
    self._save(state, step, values[0].get(self._task.best) if len(values) == 1 else None)
    return step

  def _end_early(self, state: TrainState, step: int, saved: int | None) -> None:
    self._settle()
    if saved != step:
      self._save(state, step)
    self._checkpoints.wait()
    raise Stopped(
      f"stopped by {self._stop.name} after step {step:,}, which is saved; "
      "run the same command to resume"
    )

  def _compile(self, state: TrainState, batch: Any) -> Steps:
    counts = self.compilations
    before = counts.hits, counts.misses
    self._console.say("compiling the training and the evaluation step ...")
    with self.clock.paused("compile"):
      steps = Steps(self._program, compile_steps(self._program, state, batch))
    self._console.say(f"compiled in {self.clock.apart['compile']:.1f} s, {counts.cached(before)}")
    return steps

  def _alive(self) -> bool:
    return any(record.diverged is None for record in self._records)

  def _settle(
    self, evaluated: TrainState | None = None, looked: TrainState | None = None
  ) -> list[dict[str, float]]:
    """Reads, checks and records the numbers of the pending step.

    Args:
      evaluated: state to evaluate, if any.
      looked: state to compute telemetry from, if any.

    Returns:
      Results of the evaluation, one mapping per run; empty mappings without one.
    """
    if self._pending is None:
      return [{} for _ in self._records]
    (step, launched, vote), self._pending = self._pending, None
    self._stop.count(vote)
    values = self._program.runs(jax.device_get(launched))
    for run, found in enumerate(values):
      bad = [name for name, value in found.items() if not math.isfinite(value)]
      if bad:
        self._diverged(run, step, f"{bad[0]} is {found[bad[0]]}")
    self._done += 1
    self._warn_of_compilations(step)
    self._lap()
    settings, rows = self._settings, [{} for _ in values]
    if step == 1 or step == settings.num_steps or step % settings.log_every == 0:
      extra = self._speed(step)
      rows = [{**found, **extra} for found in values]
      left = (settings.num_steps - step) * self.seconds / self._done
      self._console.train(step, rows, left)
    if looked is not None:
      with self.clock.paused("telemetry"):
        rows = [row | found for row, found in zip(rows, self.steps.look(looked), strict=True)]
    val = self._evaluate(evaluated, step) if evaluated is not None else [{} for _ in values]
    self._write(step, rows, val)
    return val

  def _write(self, step: int, rows: list[dict], val: list[dict]) -> None:
    for record, row, found in zip(self._records, rows, val, strict=True):
      if record.diverged is None and (row or found):
        finite = {name: x for name, x in {**row, **found}.items() if math.isfinite(x)}
        record.metrics.write({"step": step, **finite})

  def _warn_of_compilations(self, step: int) -> None:
    """Warns of compilations after the first step, which come from a task's own Python code."""
    more = self.compilations.programs - self._programs
    self._programs = self.compilations.programs
    if more and self._done > 1:
      self._console.say(
        f"warning: {more} programs were compiled by step {step:,}, after the first: something "
        "changes its shape or type from step to step, and costs that time"
      )

  def _lap(self) -> None:
    seconds, cpu = self.clock.lap()
    self.seconds, self._cpu = self.seconds + seconds, self._cpu + cpu

  def _speed(self, step: int) -> dict[str, float]:
    """Returns the rates since the last row, and total seconds of compilation, evaluation etc."""
    steps, seconds = self._done - self._row_done, self.seconds - self._row_seconds
    cpu = self._cpu - self._row_cpu
    self._row_done, self._row_seconds, self._row_cpu = self._done, self.seconds, self._cpu
    unit, count = self._task.unit, self._task.units_per_step
    rates = {}
    if count:
      rates = {f"train/{unit}": step * count}
      rates[f"perf/{unit}_per_s"] = steps * count * len(self._records) / seconds
    return {
      **rates,
      "perf/step_s": seconds / steps,
      "perf/step_cpu_s": cpu / steps,
      **{f"perf/{name}_s": spent for name, spent in self.clock.apart.items()},
    }

  def _evaluate(self, state: TrainState, step: int) -> list[dict[str, float]]:
    if not self._task.evaluates:
      return [{} for _ in self._records]
    before = self.clock.apart["eval"]
    with self.clock.paused("eval"):
      values = self.steps.evaluate(state)
    best = self._task.best
    for run, found in enumerate(values):
      if not math.isfinite(found[best]):
        self._diverged(run, step, f"{best} is {found[best]}")
    self._console.eval(step, values, self.clock.apart["eval"] - before)
    return values

  def _save(self, state: TrainState, step: int, best: float | None = None) -> None:
    with self.clock.paused("checkpoint"):
      for record in self._records:
        record.metrics.sync()
      before = self.compilations.programs
      card = {**self._card, "diverged": [record.diverged for record in self._records]}
      found = None if best is None else (self._task.best, best)
      self._checkpoints.save(state, step, card, found)  # reports later, once it is durable
      # With several processes Orbax compiles its own barriers for the first save.
      self._programs += self.compilations.programs - before

  def _diverged(self, run: int, step: int, what: str) -> None:
    if self._records[run].diverged is not None:
      return
    site = self._site(run)
    if len(self._records) > 1:
      self._records[run].diverged = step
      self._console.say(
        f"  seed {self._program.seeds[run]}: {what} at step {step:,}; diverged. {site or ''}"
      )
      return
    self._checkpoints.wait()
    good = checkpoint.steps_of(self._workdir)
    kept = (
      f"the last good checkpoint is step {good[-1]:,}" if good else "there is no checkpoint yet"
    )
    hint = site or (
      "Run again with `debug_nans=True` to have the first site named, "
      "or with a lower `learning_rate` in another `workdir`"
    )
    raise NonFiniteError(
      f"{what} at step {step:,}; {kept}, and nothing after it was saved. {hint}", step
    )

  def _site(self, run: int) -> str | None:
    if self._before is None:
      return None
    state, batch = (self._program.state_of(tree, run) for tree in self._before)
    with self.clock.paused("compile"):
      site = find_nonfinite(self._task, state, batch, self._settings.accumulation)
    return f"First site: {site}"
