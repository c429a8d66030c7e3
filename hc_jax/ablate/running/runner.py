"""Runs a sweep: arm by arm, from wherever it was left."""

import os
from collections.abc import Callable

from hc_jax import exclusive, folders
from hc_jax.ablate.reporting import report
from hc_jax.ablate.running import folder, records
from hc_jax.ablate.running.arm import train_arm
from hc_jax.ablate.sweep import Group, Sweep
from hc_jax.errors import UserError
from hc_jax.runs import lock
from hc_jax.runs.errors import writing
from hc_jax.train.console import gathered, say


@gathered()
def run_sweep(
  sweep: Sweep,
  out: str,
  *,
  shard: tuple[int, int] = (1, 1),
  log: Callable[[str], None] = say,
) -> list[Group]:
  """Trains the arms of a sweep that are not finished, and writes the report of all that are.

  Args:
    sweep: checked.
    out: a new or empty folder, or that of the sweep to go on with.
    shard: (i, N): of N processes that share `out`, the i-th, from 1; it takes every N-th arm.
    log: gets lines.

  Returns:
    The arms that are still missing, those of other shards.

  Raises:
    UserError: something is wrong before training.
    Stopped: SIGTERM or SIGINT arrived; what was done is saved.
    StorageError: the disk is full, or the like.
    OutOfMemoryError: the device's memory is too small.
  """
  out = os.path.abspath(os.path.expanduser(out))
  folder.open_sweep(out, sweep)
  index, count = shard
  mine = sweep.groups()[index - 1 :: count]
  for number, group in enumerate(mine, 1):
    place = f"[{number}/{len(mine)}] {group.id}"
    if records.load(out, group) is not None:
      log(f"{place}: finished before")
      continue
    log(f"{place}: seeds {', '.join(map(str, sweep.seeds))}")
    path = records.folder_of(out, group)
    with writing(f"the results in {path}"):
      folders.make_folder(out, os.path.relpath(path, out))
      with lock.locked(path, log):
        if records.load(out, group) is None:  # another process may just have finished it
          train_arm(sweep, group, out, log)
  return finish(out, log)


@gathered()
def finish(out: str, log: Callable[[str], None] = say) -> list[Group]:
  """Writes the report of what lies in `out`; returns the arms that are missing in it.

  Raises:
    UserError: no sweep lies there, or nothing of it is finished.
  """
  sweep, command = folder.read_sweep(out)
  results = list(records.load_all(out, sweep).values())
  if not results:
    raise UserError(f"no arm of the sweep in {out} is finished yet; there is nothing to report")
  with writing(f"the report in {out}"), exclusive.locked(out, folder.LOCK):
    records.write_rows(out, results)
    report.write_report(out, sweep, results, command, log)
  finished = {result.group for result in results}
  return [group for group in sweep.groups() if group not in finished]
