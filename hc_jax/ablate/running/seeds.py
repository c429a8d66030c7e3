"""The seeds of an arm in one program: the trainer's step, mapped over seeds with their batches."""

import collections
import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import data
from hc_jax.ablate.running.costs import memory_bytes
from hc_jax.ablate.running.pairing import branch_digest
from hc_jax.ablate.running.record_types import check_progress
from hc_jax.ablate.running.records import Curves
from hc_jax.errors import UserError
from hc_jax.processes.signals import StopSignal
from hc_jax.runs import checkpoint, restore
from hc_jax.runs.errors import Stopped
from hc_jax.step.evaluate import summary
from hc_jax.step.feed import FIELDS
from hc_jax.step.state import TrainState, init_state
from hc_jax.step.step import eval_step, train_step
from hc_jax.train.compilation import compiler_options, step_keywords
from hc_jax.train.console import Clock, duration
from hc_jax.train.task import Task, train_batches

_TIMED = 1000  # of the last steps, for a median


def create_states(task: Task, seeds: Sequence[int], length: int) -> TrainState:
  """The states of all seeds before the first step, stacked on a first axis; bitwise the trainer's.

  Args:
    task: of one of the runs.
    seeds: of the runs.
    length: of a window.
  """
  make = jax.jit(functools.partial(init_state, task.model, task.optimizer, length=length))
  states = [make(jax.random.key_data(jax.random.key(seed))) for seed in seeds]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def branch_digests(params: Any, count: int) -> list[str]:
  """`branch_digest` of each run's part of stacked parameters."""
  host = jax.device_get(params)
  return [branch_digest(jax.tree.map(lambda leaf, i=i: leaf[i], host)) for i in range(count)]


class SeedLoop:
  """Trains the runs of an arm side by side, and takes down what they measure.

  What the ordinary loop (`hc_jax.train.loop`) does for one run: the same step, batches, evaluation
  and checkpoints, with a first axis of seeds. A run that diverges is recorded as such; the others
  go on. Runs on one device.
  """

  def __init__(
    self,
    configs: Sequence[Any],
    task: Task,
    folder: str,
    log: Callable[[str], None],
  ) -> None:
    """Compiles nothing yet.

    Args:
      configs: of the runs; they differ in their seed.
      task: of the first of them, on a mesh of one device.
      folder: for checkpoints.
      log: gets lines of progress.
    """
    self._configs, self._task, self._folder, self._log = configs, task, folder, log
    self._train = configs[0].train
    self._tokens = self._train.batch_size * configs[0].data.length
    self.curves = [Curves() for _ in configs]
    self.branch_init: list[str] = []  # digests of the branches' initial parameters
    self.clock, self.seconds, self.memory = Clock(), 0.0, None
    self._saved = 0  # the step of the newest checkpoint, perhaps still being written
    self._pending: tuple[int, dict[str, jax.Array]] | None = None
    self._steps: collections.deque[float] = collections.deque(maxlen=_TIMED)
    self._cpu_steps: collections.deque[float] = collections.deque(maxlen=_TIMED)

  def run(self, stop: StopSignal) -> None:
    """Trains to the end, from the newest checkpoint if there is one.

    Raises:
      Stopped: SIGTERM or SIGINT arrived; what was done is saved.
    """
    state, start = self._begin()
    feeds = [self._batches(config, start) for config in self._configs]
    batch = self._next(feeds)
    self._compile(state, batch)
    with checkpoint.Checkpoints(self._folder, 1) as checkpoints:
      if start == 0 and self._train.eval_every and not stop.requested:
        self._evaluate(state, 0)
      self._lap()
      step = start
      while step < self._train.num_steps and not stop.requested and self._alive():
        state, launched = self._step(state, batch)
        step += 1
        if step < self._train.num_steps:
          batch = self._next(feeds)
        self._settle()  # the step before, now that this one runs
        self._pending = (step, launched)
        ends = step == self._train.num_steps
        saves = not ends and step % self._train.checkpoint_every == 0
        evaluates = ends or (self._train.eval_every and step % self._train.eval_every == 0)
        if saves or evaluates:
          self._settle()
        if evaluates:
          self._evaluate(state, step)
        if saves:
          self._save(checkpoints, state, step)
        if saves or evaluates:
          self._lap()
      self._settle()
      if step < self._train.num_steps and self._alive():
        self._stopped(checkpoints, state, step, stop)

  def costs(self) -> dict[str, Any]:
    """What was measured of time and memory; of steps, the median over the last 1000."""
    count = len(self._configs)
    step = statistics.median(self._steps) if self._steps else None
    cpu = statistics.median(self._cpu_steps) if self._cpu_steps else None
    together = f"{count} seeds together" if count > 1 else "one seed"
    return {
      "together": together,
      "step_seconds": step,
      "step_cpu_seconds": cpu,
      "tokens_per_s": None if not step else count * self._tokens / step,
      "training_seconds": self.seconds,
      "compile_seconds": self.clock.apart["compile"],
      "memory_bytes": None if self.memory is None else self.memory / count,
      "memory_of": f"of the compiled training step of {together}, by XLA's plan, per seed",
    }

  def _begin(self) -> tuple[TrainState, int]:
    seeds = [config.seed for config in self._configs]
    make = functools.partial(create_states, self._task, seeds, self._configs[0].data.length)
    target = restore.local_target(jax.eval_shape(make))
    restored = restore.restore_newest(self._folder, target, log=self._log)
    if restored is None:
      state = make()
      self.branch_init = branch_digests(state.params, len(seeds))
      return state, 0
    state, card = restored
    try:
      check_progress(card, len(seeds))
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(f"{self._folder} holds no arm to go on with ({error}); remove it") from error
    found, step = card["ablation"], card["step"]
    self.branch_init, self.seconds, self._saved = found["branch_init"], found["seconds"], step
    self.curves = [Curves(**curves) for curves in found["curves"]]
    self._log(f"  resumed at step {step:,}")
    return state, step

  def _batches(self, config: Any, start: int) -> Any:
    batches = train_batches(config, self._task.text)
    return data.iterate(batches, start, min(config.data.workers, 1))

  def _next(self, feeds: Sequence[Any]) -> dict[str, jax.Array]:
    batches = [next(feed) for feed in feeds]
    names = [name for name in FIELDS if name in batches[0]]
    return {name: jnp.asarray(np.stack([b[name] for b in batches])) for name in names}

  def _compile(self, state: TrainState, batch: dict[str, jax.Array]) -> None:
    task = self._task
    keywords = step_keywords(self._configs[0], task, len(self._configs))
    step = functools.partial(train_step, **keywords)
    shared = {name: keywords[name] for name in ("model", "loss_parts")}

    def evaluates(params: Any, batch: Any, token_bytes: jax.Array) -> Any:
      one = functools.partial(eval_step, token_bytes=token_bytes, **shared)
      return jax.vmap(one, in_axes=(0, None))(params, batch)

    token_bytes = jnp.asarray(task.text.tokenizer.token_bytes)
    val = [{k: jnp.asarray(b[k]) for k in FIELDS if k in b} for b in task.val]
    platform = task.mesh.devices.flat[0].platform
    options = compiler_options(self._train.deterministic, platform)
    with self.clock.paused("compile"):
      self._step = jax.jit(jax.vmap(step), donate_argnums=0).lower(state, batch).compile(options)
      compiled = jax.jit(evaluates).lower(state.params, val[0], token_bytes).compile(options)
    self.memory = memory_bytes(self._step)
    self._sums = lambda params: [compiled(params, batch, token_bytes) for batch in val]

  def _alive(self) -> bool:
    return any(curves.diverged is None for curves in self.curves)

  def _lap(self) -> float:
    self._cpu = time.process_time()
    return self.clock.lap()

  def _settle(self) -> None:
    """Reads the pending step's numbers, and takes them down."""
    if self._pending is None:
      return
    (step, launched), self._pending = self._pending, None
    values = jax.device_get(launched)
    finite = np.all([np.isfinite(value) for value in values.values()], axis=0)
    cpu = time.process_time() - self._cpu
    seconds = self._lap()
    self.seconds += seconds
    self._steps.append(seconds)
    self._cpu_steps.append(cpu)
    logs = step in (1, self._train.num_steps) or step % self._train.log_every == 0
    for i, curves in enumerate(self.curves):
      if curves.diverged is None and not finite[i]:
        self._diverged(i, step)
      if curves.diverged is None and logs:
        curves.train["step"].append(step)
        curves.train["loss"].append(float(values["train/loss"][i]))

  def _evaluate(self, state: TrainState, step: int) -> None:
    with self.clock.paused("eval"):
      sums = jax.device_get(self._sums(state.params))
    for i, curves in enumerate(self.curves):
      values = summary([{name: value[i] for name, value in one.items()} for one in sums])
      if curves.diverged is None and not np.isfinite(values["val/loss"]):
        self._diverged(i, step)
      if curves.diverged is not None:
        continue
      row = {"step": step, "seconds": round(self.seconds, 3)}
      row |= {name.removeprefix("val/"): v for name, v in values.items() if name != "val/ppl"}
      for name, value in row.items():
        curves.val.setdefault(name, []).append(value)
    self._say(step)

  def _say(self, step: int) -> None:
    total = self._train.num_steps
    losses = " ".join(
      f"{curves.val['loss'][-1]:.4f}" if curves.diverged is None else "diverged"
      for curves in self.curves
    )
    eta = duration((total - step) * statistics.median(self._steps)) if self._steps else "-"
    self._log(f"  step {step:>{len(f'{total:,}')},}/{total:,}  eta {eta:<8} val {losses}")

  def _diverged(self, i: int, step: int) -> None:
    self.curves[i].diverged = step
    self._log(f"  seed {self._configs[i].seed}: a number is not finite at step {step:,}; diverged")

  def _save(self, checkpoints: checkpoint.Checkpoints, state: TrainState, step: int) -> None:
    text = self._task.text
    card = checkpoint.make_card(
      self._configs[0],
      {
        "fingerprint": text.fingerprint,
        "tokenizer": self._configs[0].data.tokenizer,
        "vocab_size": text.tokenizer.vocab_size,
      },
    )
    card["ablation"] = {
      "seeds": [config.seed for config in self._configs],
      "curves": [dataclasses.asdict(curves) for curves in self.curves],
      "seconds": self.seconds,
      "branch_init": self.branch_init,
    }
    with self.clock.paused("checkpoint"):
      checkpoints.save(state, step, card)
    self._saved = step

  def _stopped(
    self, checkpoints: checkpoint.Checkpoints, state: TrainState, step: int, stop: StopSignal
  ) -> None:
    if step != self._saved:
      self._save(checkpoints, state, step)
    checkpoints.wait()
    kept = f"after step {step:,} of this arm, which is saved" if step else "before the first step"
    name = os.path.basename(self._folder)
    raise Stopped(f"stopped by {stop.name} in {name}, {kept}; run the same command to resume")
