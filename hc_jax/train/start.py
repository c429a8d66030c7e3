"""Entry points of training: each starts a run in a workdir, or resumes the run that is there."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optax
from jax.sharding import Mesh

from hc_jax import config as config_lib
from hc_jax import sharding
from hc_jax.config_keys import arguments
from hc_jax.errors import UserError, named
from hc_jax.params import param_count
from hc_jax.plan.out_of_memory import out_of_memory
from hc_jax.processes import cluster
from hc_jax.processes.agreement import Agreement
from hc_jax.processes.signals import StopSignal
from hc_jax.runs import checkpoint, restore
from hc_jax.runs import workdir as workdirs
from hc_jax.runs.errors import storage, writing
from hc_jax.runs.metrics import Metrics, NoMetrics
from hc_jax.runs.mirror import open_mirror
from hc_jax.runs.trackers import Trackers, find_factories
from hc_jax.step.optim import Recipe, make_recipe
from hc_jax.step.state import TrainState
from hc_jax.step.task import Task
from hc_jax.train import fork as forks
from hc_jax.train.alike import check_alike
from hc_jax.train.compile_cache import cache
from hc_jax.train.console import Console, gathered, say
from hc_jax.train.language import language_model, make_mesh
from hc_jax.train.loop import Loop, Record
from hc_jax.train.profile import Profile
from hc_jax.train.program import Program
from hc_jax.train.settings import Settings


def train(
  task: Task,
  optimizer: optax.GradientTransformation | Recipe,
  settings: Settings,
  workdir: str,
  *,
  seed: int = 0,
  mesh: Mesh | None = None,
  preset: str = "dp",
  facts: Mapping[str, Any] | None = None,
  fork: forks.Fork | None = None,
) -> TrainState:
  """Trains a task in `workdir`; resumes from the newest checkpoint there, if there is one.

  A run that is interrupted in any way and started again gives the same numbers as a run without an
  interruption. On CPU they are bitwise the same: weights, optimizer state and `metrics.jsonl`
  (except `perf/*`).

  Args:
    task: model, loss and batches.
    optimizer: an optax optimizer, or a `Recipe`, whose schedule adapts when a resumed run has more
      steps.
    settings: steps, intervals, checkpoints and telemetry.
    workdir: a new or empty folder, or the folder of the run to resume.
    seed: seed of parameters, batches and dropout.
    mesh: mesh from `hc_jax.sharding.make_mesh`; by default all devices along its first axis.
    preset: name of the sharding rules.
    facts: further JSON values that describe the run, such as the learning rate. `hc-jax inspect`
      shows them, and they must be the same when the run is resumed.
    fork: another run, whose weights a new run begins with. Resuming the fork needs neither this
      argument nor that run.

  Returns:
    The state after `settings.num_steps` steps.

  Raises:
    UserError: the task, the settings or the workdir cannot be used; nothing was trained.
    Stopped: SIGTERM or SIGINT arrived; the state is saved.
    NonFiniteError: training diverged; the last good checkpoint is kept.
    StorageError: a file of the run cannot be read or written.
    OutOfMemoryError: the device's memory is too small.
  """
  mesh = sharding.make_mesh(preset) if mesh is None else mesh
  config = {
    "seed": seed,
    "facts": dict(facts or {}),
    "train": dataclasses.asdict(settings),
    "mesh": {"preset": preset, **mesh.shape},
  }
  check_task(task)
  description = workdirs.Description(task.name, config_lib.plain(config))
  recipe = Recipe.of(optimizer)
  return _run(
    description,
    lambda: Program(task, recipe, settings, mesh, preset, (seed,)),
    workdir,
    settings,
    fork=fork,
  )


def check_task(task: Task) -> None:
  """Refuses a task without a name, or with a validation set that it cannot evaluate.

  Raises:
    UserError: a field of the task is missing; the message names it.
  """
  if not task.name:
    raise UserError(
      "Task.name is empty; give it a word that names the task on its checkpoints, such as "
      "name='digits'"
    )
  for name in ("evaluate", "summarise"):
    if len(task.val) and getattr(task, name) is None:
      raise UserError(f"Task.{name} is None, but Task.val has batches; give both, or no val")


def train_and_evaluate(config: Any, workdir: str, fork: forks.Fork | None = None) -> TrainState:
  """Trains the language model of `config` in `workdir`; see `train`.

  Args:
    config: a config, from `hc_jax.config.load_config`.
    workdir: as in `train`.
    fork: as in `train`.

  Returns:
    The state after `config.train.num_steps` steps.

  Raises:
    UserError, Stopped, NonFiniteError, StorageError, OutOfMemoryError: as in `train`.
  """
  settings = settings_of(config)
  description = workdirs.Description(workdirs.LANGUAGE_MODEL, config_lib.to_json(config))
  workers = config.data.workers
  program = lambda: language_program(config)  # noqa: E731
  words = arguments()
  with named(words):
    return _run(description, program, workdir, settings, fork=fork, workers=workers, words=words)


def settings_of(config: Any) -> Settings:
  """Returns the settings in group `train` of a config.

  Raises:
    UserError: a value is out of range or malformed.
  """
  names = [field.name for field in dataclasses.fields(Settings)]
  with named(arguments()):
    return Settings(**{name: config.train[name] for name in names})


def language_program(config: Any, log: Callable[[str], None] = say) -> Program:
  """Returns the program of a config on all devices; prepares the data first if needed."""
  recipe, mesh = make_recipe(config.optim), make_mesh(config)
  task = language_model(config, mesh, log)
  return Program(task, recipe, settings_of(config), mesh, config.mesh.preset, (config.seed,))


@gathered()
def _run(
  description: workdirs.Description,
  make_program: Callable[[], Program],
  workdir: str,
  settings: Settings,
  *,
  fork: forks.Fork | None = None,
  workers: int = 1,
  words: Mapping[str, str] | None = None,
) -> TrainState:
  """Trains one run: claims its folder, restores or creates its state, and takes the steps."""
  with contextlib.ExitStack() as held:
    with cluster.together():
      mirror = open_mirror(settings.mirror if cluster.is_main() else "", say)
      workdir = held.enter_context(workdirs.open_workdir(workdir, description, say, mirror.fetch))
      factories = find_factories(settings.trackers if cluster.is_main() else ())
      program = make_program()
      profile = Profile(settings.profile if cluster.is_main() else "", workdir)
      abstract = program.abstract
    task, identity = program.task, config_lib.plain(program.task.identity)
    check_alike(description.config, identity, workdir, settings.debug_nans)
    origin = forks.settle(fork, workdir, description, abstract, settings.num_steps, log=say)
    held.enter_context(storage(workdir))
    console = Console(settings.num_steps, task.unit, words)

    def on_disk(*when: Any) -> None:
      console.saved(*when)
      mirror.push()

    if cluster.is_main():
      with writing(f"the config in {workdir}"):
        workdirs.save_config(workdir, description, origin)
        if task.keep is not None:
          task.keep(workdir)
    with (
      sharding.use_mesh(program.mesh, program.preset),
      cache(settings.compilation_cache, workdir, log=say),
      out_of_memory(task.needs),
      StopSignal() as stop,
    ):
      with cluster.together():
        trackers = Trackers(factories, workdir, description.config, log=say)
      restored = restore.restore_newest(workdir, abstract, log=say)
      state = _begin(program, restored, workdir, identity, origin)
      start = int(state.step)
      with (
        mirror,  # after damaged checkpoints are set aside; left after the last one is saved
        checkpoint.Checkpoints(workdir, settings.keep, on_disk) as checkpoints,
        _metrics(workdir, start, trackers) as metrics,
      ):
        began = "begins" if restored is None else "resumed"
        console.header(
          mesh=program.mesh,
          preset=program.preset,
          count=param_count(abstract.params),
          about=task.about,
          run=f"{workdir}, {began} at step {start:,}",
          processes=cluster.table() if cluster.count() > 1 else [],
        )
        card = checkpoint.make_card(task.name, description.config, identity, origin)
        loop = Loop(
          program, workdir, checkpoints, [Record(metrics)], profile, console, card, workers
        )
        with loop.compilations:
          newest = None if restored is None else start
          return loop.run(state, start, newest, Agreement(stop, program.mesh))


def _metrics(workdir: str, start: int, trackers: Trackers) -> Metrics | NoMetrics:
  return Metrics(workdir, start or None, say, trackers) if cluster.is_main() else NoMetrics()


def _begin(
  program: Program,
  restored: tuple[TrainState, dict[str, Any]] | None,
  workdir: str,
  identity: Mapping[str, Any],
  origin: dict[str, Any] | None,
) -> TrainState:
  """Returns the first state of this start: restored, forked, or created from the seed."""
  if restored is None and origin is None:
    return program.first_state()
  if restored is None:
    return forks.first_state(origin, program)
  state, card = restored
  check_identity(workdir, card["data"], identity)
  return state


def check_identity(
  workdir: str, saved: Mapping[str, Any], identity: Mapping[str, Any], argument: str = "workdir"
) -> None:
  """Refuses to resume a run with another task or other data.

  Args:
    workdir: folder of the run.
    saved: facts of the task on the run's card.
    identity: facts of the task now.
    argument: name of the caller's argument for the folder, for the message.

  Raises:
    UserError: a fact differs.
  """
  for key in {**identity, **saved}:
    before, now = saved.get(key), identity.get(key)
    if before != now:
      raise UserError(
        f"the data has changed since {workdir} was begun ({key} {str(before)[:60]} there, "
        f"{str(now)[:60]} now); put the old data back, or choose another `{argument}`"
      )
