"""A run from its config to its last step, or to wherever it was interrupted and goes on."""

import contextlib
import math
from typing import Any

import jax

from hc_jax import config as config_lib
from hc_jax import data, sharding
from hc_jax.errors import UserError
from hc_jax.params import param_count
from hc_jax.plan.out_of_memory import out_of_memory
from hc_jax.processes import cluster
from hc_jax.processes.agreement import Agreement
from hc_jax.processes.signals import StopSignal
from hc_jax.runs import checkpoint, restore
from hc_jax.runs import workdir as workdirs
from hc_jax.runs.errors import NonFiniteError, Stopped, storage, writing
from hc_jax.runs.metrics import Metrics, NoMetrics
from hc_jax.runs.mirror import open_mirror
from hc_jax.runs.trackers import Trackers, find_factories
from hc_jax.step.evaluate import evaluate
from hc_jax.step.feed import to_devices
from hc_jax.step.state import TrainState, create_state
from hc_jax.train import fork as forks
from hc_jax.train.alike import check_alike
from hc_jax.train.compilation import Compilations, compile_steps
from hc_jax.train.compile_cache import cache
from hc_jax.train.console import Clock, Console, say
from hc_jax.train.debug_nans import find_nonfinite
from hc_jax.train.profile import Profile
from hc_jax.train.task import Task, make_task
from hc_jax.train.telemetry import compile_telemetry


def train_and_evaluate(config: Any, workdir: str, fork: forks.Fork | None = None) -> TrainState:
  """Trains the run of `config` in `workdir`, from its newest checkpoint if there is one.

  Interrupted in whatever way and started again, the run ends with the numbers of one that was
  never interrupted: bitwise on CPU, weights, optimizer state and `metrics.jsonl` (but `perf/*`).

  Args:
    config: of `hc_jax.config.load_config`.
    workdir: a new or empty folder, or that of the run to resume.
    fork: another run whose weights a new run begins with; a fork that is resumed needs neither this
      argument nor that run.

  Returns:
    The state after `train.num_steps` steps.

  Raises:
    UserError: something is wrong before training.
    Stopped: SIGTERM or SIGINT arrived; the state is saved.
    NonFiniteError: the training diverged; the last good checkpoint is kept.
    StorageError: a file of the run cannot be read or written.
    OutOfMemoryError: the device's memory is too small for this config.
  """
  with contextlib.ExitStack() as held:
    with cluster.together():
      mirror = open_mirror(config.train.mirror if cluster.is_main() else "", say)
      workdir = held.enter_context(workdirs.open_workdir(workdir, config, say, mirror.fetch))
      factories = find_factories(config.train.trackers if cluster.is_main() else ())
      task = make_task(config, log=say)
      profile = Profile(config.train.profile if cluster.is_main() else "", workdir)
    check_alike(config, task.text, workdir)
    origin = forks.settle(fork, workdir, config, task.abstract, log=say)
    held.enter_context(storage(workdir))
    console = Console(config.train.num_steps)

    def on_disk(*when: Any) -> None:
      console.saved(*when)
      mirror.push()

    if cluster.is_main():
      with writing(f"the config in {workdir}"):
        workdirs.save_config(workdir, config, origin)
        workdirs.keep_tokenizer(workdir, config.data.tokenizer)
    with (
      sharding.use_mesh(task.mesh, config.mesh.preset),
      cache(config.train.compilation_cache, workdir, log=say),
      out_of_memory(config, task.mesh),
      StopSignal() as stop,
    ):
      with cluster.together():
        trackers = Trackers(factories, workdir, config_lib.to_json(config), log=say)
      restored = restore.restore_newest(workdir, task.abstract, log=say)
      state, start = _begin(config, task, restored, workdir, origin)
      with (
        mirror,  # entered once damaged checkpoints are set aside, left when the last one is saved
        checkpoint.Checkpoints(workdir, config.train.keep, on_disk) as checkpoints,
        _metrics(workdir, start, trackers) as metrics,
      ):
        began = "begins" if restored is None else "resumed"
        _header(config, task, f"{workdir}, {began} at step {start:,}", console)
        loop = Loop(config, task, workdir, checkpoints, metrics, profile, console, origin)
        with loop.compilations:
          saved = None if restored is None else start
          return loop.run(state, start, saved, Agreement(stop, task.mesh))


def _metrics(workdir: str, start: int, trackers: Trackers) -> Metrics | NoMetrics:
  return Metrics(workdir, start or None, say, trackers) if cluster.is_main() else NoMetrics()


def _begin(
  config: Any, task: Task, restored: Any, workdir: str, origin: dict[str, Any] | None = None
) -> tuple[TrainState, int]:
  """The state to start from and its step: restored, forked, or made from the seed."""
  if restored is None and origin is not None:
    state = forks.first_state(
      origin,
      task.optimizer,
      task.abstract,
      config.seed,
      mesh=task.mesh,
      preset=config.mesh.preset,
    )
    return state, int(state.step)
  if restored is None:
    state = create_state(
      task.model,
      task.optimizer,
      config.seed,
      mesh=task.mesh,
      preset=config.mesh.preset,
      length=config.data.length,
    )
    return state, 0
  state, card = restored
  saved = card["data"]["fingerprint"]
  if saved != task.text.fingerprint:
    raise UserError(
      f"the text of {config.data.name} has changed since {workdir} was begun (fingerprint "
      f"{saved[:12]} there, {task.text.fingerprint[:12]} now); put the old text back, or choose "
      "another --workdir"
    )
  return state, int(state.step)


def _header(config: Any, task: Task, run: str, console: Console) -> None:
  text, rows, length = task.text, config.train.batch_size, config.data.length
  console.header(
    mesh=task.mesh,
    preset=config.mesh.preset,
    count=param_count(task.abstract.params),
    batch=f"{rows} x {length} = {rows * length:,} tokens a step, accumulation "
    f"{config.train.accumulation}; vocabulary {text.tokenizer.vocab_size:,} "
    f"({config.data.tokenizer})",
    run=run,
    processes=cluster.table() if cluster.count() > 1 else [],
  )


class Loop:
  """The steps of a run, and what happens between them."""

  def __init__(
    self,
    config: Any,
    task: Task,
    workdir: str,
    checkpoints: checkpoint.Checkpoints,
    metrics: Metrics | NoMetrics,
    profile: Profile,
    console: Console,
    origin: dict[str, Any] | None = None,
  ) -> None:
    self._config, self._task, self._workdir = config, task, workdir
    self._checkpoints, self._metrics, self._profile = checkpoints, metrics, profile
    self._console, self._clock = console, Clock()
    text = task.text
    self._card = checkpoint.make_card(
      config,
      {
        "fingerprint": text.fingerprint,
        "tokenizer": config.data.tokenizer,
        "vocab_size": text.tokenizer.vocab_size,
      },
      origin,
    )
    self._tokens = config.train.batch_size * config.data.length
    self._pending: tuple[int, dict[str, jax.Array], jax.Array | None] | None = None
    self._before: tuple[TrainState, Any] | None = None
    self._done, self._seconds = 0, 0.0  # steps of this process, and what they took
    self._row_done, self._row_seconds = 0, 0.0  # the same, as of the last row
    self.compilations, self._programs = Compilations(), 0

  def run(self, state: TrainState, start: int, saved: int | None, stop: Agreement) -> TrainState:
    """Takes the steps from `start` on; `saved` is the step of the newest checkpoint."""
    train, step, self._stop = self._config.train, start, stop
    if start >= train.num_steps:
      say(f"finished already, at step {start:,}; raise train.num_steps to go on")
      return state
    batches = data.iterate(self._task.train, start, self._config.data.workers)
    batch = to_devices(next(batches), self._task.mesh)
    train_step, self._eval_step = self._compile(state, batch)
    if saved is None and "fork" in self._card:  # from here on the run does not need its source
      self._save(state, start, None)
      saved = start
    stop.count(stop.cast())
    if start == 0 and train.eval_every and not stop.requested:
      self._metrics.write({"step": 0, **self._evaluate(state, 0)})
    self._clock.lap()

    while step < train.num_steps and not stop.requested:
      self._profile.before(step + 1)
      if train.debug_nans:
        self._before = (state, batch)
      with jax.transfer_guard("disallow"):
        state, launched = train_step(state, batch)
      step += 1
      vote = stop.cast()
      if step < train.num_steps:
        batch = to_devices(next(batches), self._task.mesh)
      self._settle()  # the step before, now that this one runs
      self._pending = (step, launched, vote)
      if self._profile.after(step, state):
        say(f"trace written to {self._workdir}/profile")

      ends = step == train.num_steps
      evaluates = ends or (train.eval_every and step % train.eval_every == 0)
      saves = ends or step % train.checkpoint_every == 0
      looks = self._telemetry is not None and step % train.telemetry_every == 0
      if evaluates or saves or looks or train.debug_nans:
        val = self._settle(state if evaluates else None, state.params if looks else None)
      if saves:
        self._save(state, step, val.get("val/loss"))
        saved = step

    self._profile.close()
    if step < train.num_steps and saved != step:  # asked to stop
      self._settle()
      self._save(state, step, None)
    self._checkpoints.wait()
    if step < train.num_steps:
      raise Stopped(
        f"stopped by {stop.name} after step {step:,}, which is saved; "
        "run the same command to resume"
      )
    apart = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self._clock.apart.items())
    say(f"finished step {step:,}: training {self._seconds:.1f} s, {apart}; {self._workdir}")
    if self._clock.apart["telemetry"]:
      share = self._clock.apart["telemetry"] / self._seconds
      say(
        f"telemetry every {train.telemetry_every:,} steps took {share:.2%} of the training's time"
      )
    return state

  def _compile(self, state: TrainState, batch: Any) -> tuple[Any, Any]:
    counts = self.compilations
    before = counts.hits, counts.misses
    say("compiling the training and the evaluation step ...")
    with self._clock.paused("compile"):
      compiled = compile_steps(self._config, self._task, state, batch)
      self._telemetry = compile_telemetry(self._config, self._task, state.params)
    say(f"compiled in {self._clock.apart['compile']:.1f} s, {counts.cached(before)}")
    return compiled

  def _settle(self, state: TrainState | None = None, params: Any = None) -> dict[str, float]:
    """Reads the pending step's numbers, checks and records them.

    With an evaluation of `state`, and telemetry of `params`.
    """
    if self._pending is None:
      return {}
    (step, launched, vote), self._pending = self._pending, None
    self._stop.count(vote)
    values = {name: float(value) for name, value in jax.device_get(launched).items()}
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
      self._diverged(step, f"{bad[0]} is {values[bad[0]]}")
    self._done += 1
    self._warn_of_compilations(step)
    self._seconds += self._clock.lap()
    train, row = self._config.train, {}
    if step == 1 or step == train.num_steps or step % train.log_every == 0:
      row = {**values, "train/tokens": step * self._tokens, **self._speed()}
      left = (train.num_steps - step) * self._seconds / self._done
      self._console.train(step, row, left)
    if params is not None:
      with self._clock.paused("telemetry"):
        row |= self._telemetry(params)
    val = {} if state is None else self._evaluate(state, step)
    if row or val:
      self._metrics.write({"step": step, **row, **val})
    return val

  def _warn_of_compilations(self, step: int) -> None:
    """After the first step nothing is left to compile; the steps themselves cannot be again."""
    more = self.compilations.programs - self._programs
    self._programs = self.compilations.programs
    if more and self._done > 1:
      say(
        f"warning: {more} programs were compiled by step {step:,}, after the first: something "
        "changes its shape or type from step to step, and costs that time"
      )

  def _speed(self) -> dict[str, float]:
    """Rates since the last row, and the seconds so far of what is timed apart."""
    steps, seconds = self._done - self._row_done, self._seconds - self._row_seconds
    self._row_done, self._row_seconds = self._done, self._seconds
    return {
      "perf/step_s": seconds / steps,
      "perf/tokens_per_s": steps * self._tokens / seconds,
      **{f"perf/{name}_s": spent for name, spent in self._clock.apart.items()},
    }

  def _evaluate(self, state: TrainState, step: int) -> dict[str, float]:
    before = self._clock.apart["eval"]
    with self._clock.paused("eval"):
      values = evaluate(self._eval_step, state.params, self._task.val, self._task.mesh)
    if not math.isfinite(values["val/loss"]):
      self._diverged(step, f"val/loss is {values['val/loss']}")
    self._console.eval(step, values, self._clock.apart["eval"] - before)
    return values

  def _save(self, state: TrainState, step: int, val_loss: float | None) -> None:
    with self._clock.paused("checkpoint"):
      self._metrics.sync()
      before = self.compilations.programs
      self._checkpoints.save(state, step, self._card, val_loss)  # says so when it is durable
      # With several processes Orbax compiles its own barriers for the first save.
      self._programs += self.compilations.programs - before

  def _diverged(self, step: int, what: str) -> None:
    self._checkpoints.wait()
    good = checkpoint.steps_of(self._workdir)
    kept = (
      f"the last good checkpoint is step {good[-1]:,}" if good else "there is no checkpoint yet"
    )
    if self._before is not None:
      with self._clock.paused("compile"):
        site = find_nonfinite(self._task.model, *self._before, self._config.train.accumulation)
      hint = f"First site: {site}"
    else:
      hint = (
        "Run again with --config.train.debug_nans=true to have the first site named, "
        "or with a lower optim.learning_rate in another --workdir"
      )
    raise NonFiniteError(
      f"{what} at step {step:,}; {kept}, and nothing after it was saved. {hint}", step
    )
