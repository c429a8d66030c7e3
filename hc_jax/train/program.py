"""Programs of a run's steps (training, evaluation, telemetry), compiled ahead of time."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from hc_jax import data, sharding
from hc_jax.errors import UserError
from hc_jax.step.evaluate import batch_sums, totals
from hc_jax.step.feed import to_devices
from hc_jax.step.optim import Recipe
from hc_jax.step.state import TrainState, abstract_state, create_state, init_state
from hc_jax.step.step import train_step
from hc_jax.step.task import Task
from hc_jax.train.settings import Settings


@dataclasses.dataclass(frozen=True)
class Program:
  """A task on a mesh, for one seed or for several seeds that train together.

  With several seeds, the step is mapped over a first axis of seeds, which every leaf of state,
  batch and metrics then has. Such a program runs on one device.

  Attributes:
    task: task to train.
    recipe: recipe of the optimizer.
    settings: settings of the run.
    mesh: mesh from `hc_jax.sharding.make_mesh`.
    preset: name of the sharding rules.
    seeds: seeds of the runs, in order.
    together: whether the step is mapped over the seeds; if not, there is one seed.
  """

  task: Task
  recipe: Recipe
  settings: Settings
  mesh: Mesh
  preset: str
  seeds: tuple[int, ...]
  together: bool = False

  @property
  def optimizer(self) -> optax.GradientTransformation:
    """Optimizer whose schedule ends at the run's last step."""
    return self.recipe.optimizer(self.settings.num_steps)

  @property
  def compiler_options(self) -> dict[str, Any] | None:
    """Options for XLA; None for its defaults."""
    device = self.mesh.devices.flat[0]
    return compiler_options(self.settings.deterministic, device.platform)

  @functools.cached_property
  def abstract(self) -> TrainState:
    """State of ShapeDtypeStructs, with shardings."""
    if not self.together:
      return abstract_state(self.task.init, self.optimizer, mesh=self.mesh, preset=self.preset)
    where = sharding.replicated(self.mesh)
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
      jax.eval_shape(self._stacked),
    )

  def first_state(self) -> TrainState:
    """Returns the state before step 1. Seeds that train together start bitwise as alone."""
    if self.together:
      return self._stacked()
    where = {"mesh": self.mesh, "preset": self.preset}
    return create_state(self.task.init, self.optimizer, self.seeds[0], **where)

  @functools.cached_property
  def _init(self) -> Callable[[jax.Array], TrainState]:
    return jax.jit(functools.partial(init_state, self.task.init, self.optimizer))

  def _stacked(self) -> TrainState:
    states = [self._init(jax.random.key_data(jax.random.key(seed))) for seed in self.seeds]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

  def batches(self, start: int, workers: int) -> Iterator[Any]:
    """Yields the batches of steps start + 1, start + 2, ..., on the devices."""
    sequences = [self.task.train(seed) for seed in self.seeds]
    for batches in sequences:
      _check_length(batches, self.settings.num_steps)
    feeds = [data.iterate(batches, start, workers) for batches in sequences]
    while True:
      found = [next(feed) for feed in feeds]
      if self.together:
        yield jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *found)
      else:
        yield to_devices(found[0], self.mesh)

  def runs(self, values: Mapping[str, Any]) -> list[dict[str, float]]:
    """Splits host values `[seeds]` (or scalars, for one run) into one mapping per run."""
    rows = {name: np.atleast_1d(value) for name, value in values.items()}
    return [{k: float(v[i]) for k, v in rows.items()} for i in range(len(self.seeds))]

  def state_of(self, tree: Any, run: int) -> Any:
    """Returns the part of a state or batch that belongs to run number `run`."""
    return jax.tree.map(lambda leaf: leaf[run], tree) if self.together else tree


def _check_length(batches: Any, num_steps: int) -> None:
  if hasattr(batches, "__len__") and len(batches) < num_steps:
    raise UserError(
      f"`num_steps={num_steps}` is more than the {len(batches)} batches of Task.train; lower it, "
      "or make them endless"
    )


class Compiled(NamedTuple):
  """Executables of a run.

  Attributes:
    train: `(state, batch, end) -> (state, values)`.
    evaluate: `(variables, batch) -> sums`; None without a validation set.
    look: `(variables, batch) -> values`; None without telemetry.
  """

  train: Any
  evaluate: Any
  look: Any


def compile_steps(program: Program, state: TrainState, batch: Any) -> Compiled:
  """Compiles the steps of a run ahead of time, so that no step can trigger a compilation.

  Args:
    program: program of the run.
    state: state before the first step.
    batch: first batch, on the devices.
  """
  settings, task, variables = program.settings, program.task, state.variables

  def compiled(jitted: Any, *arguments: Any) -> Any:
    return jitted.lower(*arguments).compile(program.compiler_options)

  evaluate = look = None
  if task.evaluates:
    part = to_devices(task.val[0], program.mesh)
    mapped = _mapped(program, task.evaluate)
    sums = jax.eval_shape(mapped, variables, part)
    _check_evaluation(task, {name: sum.shape[program.together :] for name, sum in sums.items()})
    evaluate = compiled(jax.jit(mapped), variables, part)
  if settings.telemetry_every and task.telemetry is not None:
    measure = _mapped(program, task.telemetry.measure)
    few = to_devices(task.telemetry.batch, program.mesh)
    where = None if program.together else sharding.replicated(program.mesh)
    if values := jax.eval_shape(measure, variables, few):
      shapes = {name: value.shape[program.together :] for name, value in values.items()}
      _check_scalars("Telemetry.measure", shapes, "a scalar")
      look = compiled(jax.jit(measure, out_shardings=where), variables, few)
  return Compiled(compiled(jit_step(program), state, batch, _end(program)), evaluate, look)


def _check_evaluation(task: Task, shapes: Mapping[str, tuple[int, ...]]) -> None:
  """Refuses, before the first step, a task whose first evaluation would fail.

  Raises:
    UserError: `task.evaluate` returns sums that are not scalars, or `task.summarise` returns no
      value named `task.best`.
  """
  _check_scalars("Task.evaluate", shapes, "its sum")
  with contextlib.suppress(ArithmeticError, ValueError):  # the sums here are not real ones
    found = task.summarise(dict.fromkeys(shapes, 1.0))
    if task.best not in found:
      raise UserError(
        f"Task.best={task.best!r} is not among what Task.summarise gives ({', '.join(found)}); "
        "set it to the value to keep the best checkpoint by"
      )


def _check_scalars(function: str, shapes: Mapping[str, tuple[int, ...]], remedy: str) -> None:
  """Raises UserError if a function of the task returns an array where it must return a scalar."""
  for name, shape in shapes.items():
    if shape:
      raise UserError(f"{function} gives {name!r} as an array {list(shape)}; give {remedy}")


class Steps:
  """Executables of a program, with the arguments that are the same at every call."""

  def __init__(self, program: Program, compiled: Compiled) -> None:
    self._program, self.compiled, self._end = program, compiled, _end(program)
    self._few = None
    if compiled.look is not None:
      self._few = to_devices(program.task.telemetry.batch, program.mesh)

  def train(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
    """Launches a step; returns the new state and the step's values, still on the devices."""
    return self.compiled.train(state, batch, self._end)

  def evaluate(self, state: TrainState) -> list[dict[str, float]]:
    """Evaluates; returns the values of `task.summarise`, one mapping per run."""
    program, task = self._program, self._program.task
    sums = batch_sums(self.compiled.evaluate, state.variables, task.val, program.mesh)
    by_run = zip(*[program.runs(one) for one in sums], strict=True)
    return [dict(task.summarise(totals(run))) for run in by_run]

  def look(self, state: TrainState) -> list[dict[str, float]]:
    """Returns the telemetry, one mapping per run, without values that are not finite."""
    found = jax.device_get(self.compiled.look(state.variables, self._few))
    runs = self._program.runs(found)
    return [{name: x for name, x in run.items() if math.isfinite(x)} for run in runs]


def _end(program: Program) -> jax.Array:
  """Returns the last step as an array, so that a run with more steps reuses the same program."""
  where = sharding.replicated(program.mesh)
  return jax.device_put(np.int32(program.settings.num_steps), where)


def jit_step(program: Program) -> Any:
  """Returns the jitted training step, `(state, batch, end) -> (state, values)`.

  The state stays on its devices. Its buffers are donated, except with `debug_nans`, which needs the
  state before the step.
  """
  task, recipe, settings = program.task, program.recipe, program.settings

  def step(state: TrainState, batch: Any, end: jax.Array) -> Any:
    end = end if recipe.follows_end else settings.num_steps
    return train_step(
      state,
      batch,
      loss=task.loss,
      weight=task.weight,
      optimizer=recipe.optimizer(end),
      schedule=recipe.schedule(end),
      accumulation=settings.accumulation,
    )

  donate = () if settings.debug_nans else (0,)
  if program.together:
    return jax.jit(jax.vmap(step, in_axes=(0, 0, None)), donate_argnums=donate)
  where = jax.tree.map(lambda leaf: leaf.sharding, program.abstract)
  return jax.jit(step, donate_argnums=donate, out_shardings=(where, None))


def _mapped(program: Program, function: Callable[..., Any]) -> Callable[..., Any]:
  """Maps `(variables, batch) -> values` over the runs, which share the batch."""
  return jax.vmap(function, in_axes=(0, None)) if program.together else function


def compiler_options(deterministic: bool, platform: str) -> dict[str, Any] | None:
  """Returns options for XLA: on a GPU, `deterministic` fixes the order of every sum."""
  gpu = platform in ("gpu", "cuda", "rocm")
  return {"xla_gpu_deterministic_ops": True} if deterministic and gpu else None


def memory_bytes(compiled: Any) -> int | None:
  """Returns the bytes that XLA plans for a running program, arguments included; None if unknown."""
  found = compiled.memory_analysis()
  if found is None:
    return None
  return int(
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
    + found.temp_size_in_bytes
  )
