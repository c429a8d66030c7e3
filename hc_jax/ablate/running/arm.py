"""Training of one arm of a sweep, from its configs to its result."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax

from hc_jax import config as config_lib
from hc_jax.ablate.running import pairing, provenance, records
from hc_jax.ablate.running.costs import FLOPS_OF, model_costs, single_memory
from hc_jax.ablate.running.one_by_one import train_one_by_one
from hc_jax.ablate.running.records import Result
from hc_jax.ablate.running.together import Trained, train_together
from hc_jax.ablate.sweep import Group, Sweep
from hc_jax.errors import UserError
from hc_jax.processes.signals import StopSignal
from hc_jax.runs.checkpoint import FOLDER
from hc_jax.runs.errors import OutOfMemoryError, memory_cause, storage
from hc_jax.runs.restore import REJECTED
from hc_jax.step.optim import make_recipe
from hc_jax.step.task import Task
from hc_jax.train.compile_cache import cache
from hc_jax.train.language import language_model, make_mesh
from hc_jax.train.program import Program
from hc_jax.train.start import settings_of


def train_arm(sweep: Sweep, group: Group, out: str, log: Callable[[str], None]) -> Result:
  """Trains all seeds of an arm, continuing interrupted runs, and saves the result.

  Raises:
    UserError, Stopped, StorageError, OutOfMemoryError: as in `run_sweep`.
  """
  configs = [sweep.config(group, seed) for seed in sweep.seeds]
  folder = records.folder_of(out, group)
  started = provenance.now()
  program = _program(configs, sweep, log if not records.load_all(out, sweep) else _silent, log)
  task = program.task
  _check_text(sweep, out, task)
  if sweep.one_by_one:
    curves, measured = train_one_by_one(configs, folder)
    with cache(configs[0].train.compilation_cache, os.path.join(folder, "runs"), log):
      measured["memory_bytes"] = single_memory(program)
  else:
    trained = _train_together(program, configs[0], folder, out, log)
    curves, measured = trained.curves, trained.costs
  # Reuse a program that trained the seeds together: its initial states are already compiled.
  seeds = tuple(config.seed for config in configs)
  paired = program if program.together else dataclasses.replace(program, seeds=seeds, together=True)
  result = Result(
    group=group,
    seeds=list(seeds),
    curves=curves,
    costs={**model_costs(program, configs[0]), "flops_of": FLOPS_OF, **measured},
    branch_init=pairing.branch_digests(paired.first_state().params, len(configs)),
    first_batch=[pairing.batch_digest(task.train(seed)[0]) for seed in seeds],
    fingerprint=task.identity["fingerprint"],
    provenance=provenance.provenance(started, program.mesh.devices.flat[0]),
  )
  records.save(out, result)
  if not sweep.one_by_one:  # runs of one seed keep their checkpoints, so that they can be analysed
    for name in (FOLDER, REJECTED):
      shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
  return result


def _program(
  configs: Sequence[Any],
  sweep: Sweep,
  about_data: Callable[[str], None],
  log: Callable[[str], None],
) -> Program:
  """Returns the program for all seeds of the arm, or for the first seed with `one_by_one`."""
  config, together = configs[0], not sweep.one_by_one
  mesh = make_mesh(config, _one_device(config, log) if together else None)
  copies = len(configs) if together else 1
  task = language_model(config, mesh, about_data, copies)
  seeds = tuple(config.seed for config in configs[:copies])
  settings, recipe = settings_of(config), make_recipe(config.optim)
  return Program(task, recipe, settings, mesh, config.mesh.preset, seeds, together)


def _train_together(
  program: Program, config: Any, folder: str, out: str, log: Callable[[str], None]
) -> Trained:
  try:
    compiled = cache(config.train.compilation_cache, out, log)
    with compiled, storage(folder), StopSignal() as stop:
      values = config_lib.to_json(config)
      return train_together(program, folder, stop, log, values, min(config.data.workers, 1))
  except jax.errors.JaxRuntimeError as error:
    reason = memory_cause(error)
    if reason is None:
      raise
    raise OutOfMemoryError(
      f"the {len(program.seeds)} seeds of an arm do not fit on the device together "
      f"({reason[:160]}); train one seed at a time (`one_by_one`, with another `out`), or save "
      "memory with train.accumulation or model.remat"
    ) from error


def _one_device(config: Any, log: Callable[[str], None]) -> list[jax.Device]:
  """Returns a list of the one device on which the seeds of an arm train."""
  if config.mesh.preset != "dp" or config.mesh.fsdp > 1 or config.mesh.tensor > 1:
    raise UserError(
      f"mesh.preset={config.mesh.preset} splits a model over devices, but the seeds of an arm "
      "train together on one device; use `one_by_one`, or mesh.preset=dp"
    )
  devices = jax.local_devices()
  if len(devices) > 1:
    log(
      f"  uses one of {len(devices)} devices: start one process per device, with --shard=i/N and "
      "only that device visible, or use --one-by-one to train on all devices"
    )
  return devices[:1]


def _check_text(sweep: Sweep, out: str, task: Task) -> None:
  """Raises UserError if the text is not the one that finished arms were trained on."""
  now = task.identity["fingerprint"]
  for result in records.load_all(out, sweep).values():
    if result.fingerprint != now:
      raise UserError(
        f"the text has changed since arm {result.group.id} of {out} was trained (fingerprint "
        f"{result.fingerprint[:12]} then, {now[:12]} now); put the old text "
        "back, or choose another `out`"
      )


def _silent(line: str) -> None:
  del line
