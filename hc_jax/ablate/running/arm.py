"""One arm of a sweep, from its configs to its result."""

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax

from hc_jax.ablate.running import pairing, provenance, records
from hc_jax.ablate.running.costs import FLOPS_OF, model_costs, single_memory
from hc_jax.ablate.running.records import Result
from hc_jax.ablate.running.seeds import SeedLoop, branch_digests, create_states
from hc_jax.ablate.running.single import train_one_by_one
from hc_jax.ablate.sweep import Group, Sweep
from hc_jax.errors import UserError
from hc_jax.processes.signals import StopSignal
from hc_jax.runs.checkpoint import FOLDER
from hc_jax.runs.errors import OutOfMemoryError, memory_cause, storage
from hc_jax.runs.restore import REJECTED
from hc_jax.train.compile_cache import cache
from hc_jax.train.task import Task, make_task, train_batches


def train_arm(sweep: Sweep, group: Group, out: str, log: Callable[[str], None]) -> Result:
  """Trains all seeds of an arm, from wherever they were left, and saves the result.

  Raises:
    UserError, Stopped, StorageError, OutOfMemoryError: as `run_sweep`.
  """
  configs = [sweep.config(group, seed) for seed in sweep.seeds]
  folder = records.folder_of(out, group)
  started = provenance.now()
  devices = None if sweep.one_by_one else _one_device(configs[0], log)
  task = make_task(configs[0], log if not records.load_all(out, sweep) else _silent, devices)
  _check_text(sweep, out, task)
  if sweep.one_by_one:
    curves, measured = train_one_by_one(configs, folder)
    with cache(configs[0].train.compilation_cache, os.path.join(folder, "runs"), log):
      measured["memory_bytes"] = single_memory(task, configs[0])
    params = create_states(task, list(sweep.seeds), configs[0].data.length).params
    branch_init = branch_digests(params, len(configs))
  else:
    loop = _train_together(configs, task, folder, out, log)
    curves, measured, branch_init = loop.curves, loop.costs(), loop.branch_init
  result = Result(
    group=group,
    seeds=[config.seed for config in configs],
    curves=curves,
    costs={**model_costs(task, configs[0]), "flops_of": FLOPS_OF, **measured},
    branch_init=branch_init,
    first_batch=[pairing.batch_digest(train_batches(config, task.text)[0]) for config in configs],
    fingerprint=task.text.fingerprint,
    provenance=provenance.provenance(started, task.mesh.devices.flat[0]),
  )
  records.save(out, result)
  if not sweep.one_by_one:  # those are runs, to be looked into
    for name in (FOLDER, REJECTED):
      shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
  return result


def _train_together(
  configs: Sequence[Any], task: Task, folder: str, out: str, log: Callable[[str], None]
) -> SeedLoop:
  try:
    compiled = cache(configs[0].train.compilation_cache, out, log)
    with compiled, storage(folder), StopSignal() as stop:
      loop = SeedLoop(configs, task, folder, log)
      loop.run(stop)
  except jax.errors.JaxRuntimeError as error:
    reason = memory_cause(error)
    if reason is None:
      raise
    raise OutOfMemoryError(
      f"the {len(configs)} seeds of an arm do not fit on the device together ({reason[:160]}); "
      "--one-by-one trains each by itself, in another --out; train.accumulation and model.remat "
      "save memory too"
    ) from error
  return loop


def _one_device(config: Any, log: Callable[[str], None]) -> list[jax.Device]:
  """The device for the seeds of an arm."""
  if config.mesh.preset != "dp" or config.mesh.fsdp > 1 or config.mesh.tensor > 1:
    raise UserError(
      f"mesh.preset={config.mesh.preset} splits a model over devices, and the seeds of an arm "
      "train together on one; use --one-by-one, or mesh.preset=dp"
    )
  devices = jax.local_devices()
  if len(devices) > 1:
    log(
      f"  uses one of {len(devices)} devices: start a process for each with --shard=i/N and the "
      "device made visible to it alone, or train --one-by-one on all of them"
    )
  return devices[:1]


def _check_text(sweep: Sweep, out: str, task: Task) -> None:
  """Refuses arms that would see another text than those before."""
  for result in records.load_all(out, sweep).values():
    if result.fingerprint != task.text.fingerprint:
      raise UserError(
        f"the text has changed since arm {result.group.id} of {out} was trained (fingerprint "
        f"{result.fingerprint[:12]} there, {task.text.fingerprint[:12]} now); put the old text "
        "back, or choose another --out"
      )


def _silent(line: str) -> None:
  del line
