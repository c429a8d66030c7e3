"""The two steps compiled ahead of time, and how many programs are compiled."""

import functools
from types import TracebackType
from typing import Any

import jax

from hc_jax import sharding
from hc_jax.step.feed import to_devices
from hc_jax.step.loss import parts_of
from hc_jax.step.state import TrainState
from hc_jax.step.step import eval_step, jit_train_step
from hc_jax.train.task import Task

_PROGRAM = "/jax/core/compile/backend_compile_duration"
_HIT, _MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


class Compilations:
  """Counts, while it is entered, what is compiled and what the cache knew."""

  def __init__(self) -> None:
    self.programs = self.hits = self.misses = 0

  def __enter__(self) -> "Compilations":
    jax.monitoring.register_event_listener(self._event)
    jax.monitoring.register_event_duration_secs_listener(self._duration)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    jax.monitoring.unregister_event_listener(self._event)
    jax.monitoring.unregister_event_duration_listener(self._duration)

  def _event(self, event: str, **_: Any) -> None:
    self.hits += event == _HIT
    self.misses += event == _MISS

  def _duration(self, event: str, seconds: float, **_: Any) -> None:
    del seconds
    self.programs += event == _PROGRAM

  def cached(self, since: tuple[int, int] = (0, 0)) -> str:
    """Hits and misses in words, those of `since` taken off."""
    if not jax.config.jax_compilation_cache_dir:
      return "no cache"
    hits, misses = self.hits - since[0], self.misses - since[1]
    return f"cache: {hits} {_plural('hit', hits)}, {misses} {_plural('miss', misses)}"


def _plural(word: str, count: int) -> str:
  return word if count == 1 else word + ("es" if word.endswith("s") else "s")


def step_keywords(config: Any, task: Task, copies: int = 1) -> dict[str, Any]:
  """The keywords of `train_step` that a config stands for.

  Args:
    config: of a run.
    task: of the config.
    copies: of the run that one program holds, as for several seeds.
  """
  train, length = config.train, config.data.length
  rows = copies * train.batch_size // train.accumulation
  logits = rows * length * task.model.vocab_size // task.mesh.size
  return {
    "model": task.model,
    "optimizer": task.optimizer,
    "schedule": task.schedule,
    "accumulation": train.accumulation,
    "loss_parts": parts_of(length, logits, train.loss_parts),
  }


def compile_steps(config: Any, task: Task, state: TrainState, batch: Any) -> tuple[Any, Any]:
  """The training and the evaluation step, compiled: what runs later cannot compile again.

  Returns:
    `(state, batch) -> (state, metrics)` and `(params, batch) -> sums`; see `step`.
  """
  train, keywords = config.train, step_keywords(config, task)
  step = jit_train_step(task.abstract, donate=not train.debug_nans, **keywords)
  token_bytes = jax.device_put(task.text.tokenizer.token_bytes, sharding.replicated(task.mesh))
  evaluates = jax.jit(
    functools.partial(eval_step, model=task.model, loss_parts=keywords["loss_parts"])
  )
  part = to_devices(task.val[0], task.mesh)
  options = compiler_options(train.deterministic, task.mesh.devices.flat[0].platform)
  compiled = step.lower(state, batch).compile(options)
  eval_compiled = evaluates.lower(state.params, part, token_bytes=token_bytes).compile(options)
  return compiled, functools.partial(eval_compiled, token_bytes=token_bytes)


def compiler_options(deterministic: bool, platform: str) -> dict[str, Any] | None:
  """What XLA is told: on GPUs `deterministic` forbids sums in whatever order threads arrive."""
  gpu = platform in ("gpu", "cuda", "rocm")
  return {"xla_gpu_deterministic_ops": True} if deterministic and gpu else None
