"""Comparison of the user's own tasks over seeds, by the trainer's loop."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

import jax
import optax

from hc_jax import config as config_lib
from hc_jax import folders, sharding
from hc_jax.ablate.reporting.statistics import Difference, mean_and_sd, paired_difference
from hc_jax.ablate.running.records import Curves
from hc_jax.ablate.running.together import train_together
from hc_jax.errors import UserError
from hc_jax.plan.out_of_memory import out_of_memory
from hc_jax.processes.signals import StopSignal
from hc_jax.runs import lock
from hc_jax.runs.errors import storage
from hc_jax.step.optim import Recipe
from hc_jax.step.task import Task
from hc_jax.tables import aligned
from hc_jax.train.compile_cache import cache
from hc_jax.train.console import gathered, say
from hc_jax.train.program import Program
from hc_jax.train.settings import Settings
from hc_jax.train.start import check_task


@dataclasses.dataclass(frozen=True)
class TaskArm:
  """The results of one task over its seeds.

  Attributes:
    name: name of the arm.
    seeds: seeds in order.
    curves: curves of each seed; `curves[i].val["loss"]` holds the values of `Task.best`.
    difference: paired difference of the last values to those of the first arm. None for the first
      arm, and if a seed of either arm diverged.
  """

  name: str
  seeds: tuple[int, ...]
  curves: list[Curves]
  difference: Difference | None = None

  @property
  def finals(self) -> list[float | None]:
    """Returns the last value of each seed; None for a seed that diverged."""
    return [curves.final for curves in self.curves]


@gathered()
def compare_tasks(
  arms: Mapping[str, Task],
  optimizer: optax.GradientTransformation | Recipe,
  settings: Settings,
  out: str,
  *,
  seeds: Sequence[int] = (0, 1, 2),
  log: Callable[[str], None] = say,
) -> list[TaskArm]:
  """Trains several tasks over the same seeds and compares their last values.

  An interrupted comparison is continued. The seeds of an arm train side by side in one program, on
  the first device. The measurements of a run are in `out/<arm>/seed-<seed>/metrics.jsonl`.

  Args:
    arms: tasks by name, each with a validation set. The first is the baseline.
    optimizer: optimizer or recipe, as for `hc_jax.train.train`.
    settings: settings of every run.
    out: a new folder, or the folder of a comparison to continue.
    seeds: seeds of the runs of each arm, all different.
    log: function that receives each printed line.

  Returns:
    A `TaskArm` for each task, in order.

  Raises:
    UserError: if arms or seeds are empty, a seed comes twice, a name cannot name a folder, a task
      has no validation set, or `out` holds another comparison.
    Stopped: if SIGTERM or SIGINT arrived; a checkpoint was saved.
    StorageError: if a file could not be read or written.
    OutOfMemoryError: if the seeds together do not fit on the device.
  """
  _check(arms, seeds)
  out = os.path.abspath(os.path.expanduser(out))
  found: list[TaskArm] = []
  for name, task in arms.items():
    log(f"{name}: seeds {', '.join(map(str, seeds))}")
    curves = _train(name, task, optimizer, settings, out, tuple(seeds), log)
    arm = TaskArm(name, tuple(seeds), curves)
    if found and None not in (*found[0].finals, *arm.finals):
      difference = paired_difference(arm.finals, found[0].finals)
      arm = dataclasses.replace(arm, difference=difference)
    found.append(arm)
  return found


def table(arms: Sequence[TaskArm]) -> str:
  """Returns the last values of all arms as a text table.

  A row has the mean and standard deviation over seeds, and the paired difference to the first arm
  as `mean ± half width` of its 95 % interval. If seeds diverged, the row has their number instead.

  Args:
    arms: at least one arm, from `compare_tasks`.
  """
  rows = [["arm", "mean", "sd", f"difference to {arms[0].name}"]]
  for arm in arms:
    good = [final for final in arm.finals if final is not None]
    mean, sd = mean_and_sd(good) if good else (None, None)
    said = ""
    if arm.difference is not None:
      half = arm.difference.half_width
      said = f"{arm.difference.mean:+.4g}" + ("" if half is None else f" ± {half:.2g}")
    elif len(good) < len(arm.finals):
      said = f"{len(arm.finals) - len(good)} of {len(arm.finals)} seeds diverged"
    rows.append([arm.name, *("-" if x is None else f"{x:.4g}" for x in (mean, sd)), said])
  return "\n".join(aligned(rows, right=(1, 2)))


def _check(arms: Mapping[str, Task], seeds: Sequence[int]) -> None:
  if not arms or not seeds or len(set(seeds)) != len(seeds):
    raise UserError("compare_tasks needs at least one arm and one seed, and no seed twice")
  for name, task in arms.items():
    check_task(task)
    if not name or os.path.basename(name) != name or name.startswith("."):
      raise UserError(f"arm {name!r} cannot name a folder; use letters, digits and _ + -")
    if not task.evaluates:
      raise UserError(
        f"the task of arm {name!r} cannot be compared; give it val, evaluate and summarise"
      )


def _train(
  name: str,
  task: Task,
  optimizer: optax.GradientTransformation | Recipe,
  settings: Settings,
  out: str,
  seeds: tuple[int, ...],
  log: Callable[[str], None],
) -> list[Curves]:
  mesh = sharding.make_mesh("dp", devices=jax.local_devices()[:1])
  program = Program(task, Recipe.of(optimizer), settings, mesh, "dp", seeds, together=True)
  config = config_lib.plain({"train": dataclasses.asdict(settings)})
  os.makedirs(out, exist_ok=True)
  folder = folders.make_folder(out, name)
  with (
    lock.locked(folder, log),
    storage(folder),
    cache(settings.compilation_cache, out, log),
    out_of_memory(task.needs),
    StopSignal() as stop,
  ):
    return train_together(program, folder, stop, log, config, save_last=True).curves
