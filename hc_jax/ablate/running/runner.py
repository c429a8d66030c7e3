"""Running of a sweep, arm by arm; an interrupted sweep is continued."""

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
  """Trains the unfinished arms of a sweep, and writes the report on all finished arms.

  Args:
    sweep: sweep that has passed `Sweep.check`.
    out: a new or empty folder, or the folder of this sweep to continue.
    shard: `(i, N)` for the i-th, from 1, of N processes that share `out`; it trains every N-th arm.
    log: function that receives each printed line.

  Returns:
    The groups that are not finished, which belong to other shards.

  Raises:
    UserError: if `out` holds something else, or a run cannot start.
    Stopped: if SIGTERM or SIGINT arrived; a checkpoint was saved.
    StorageError: if a file could not be written, for example because the disk is full.
    OutOfMemoryError: if a model does not fit on the device.
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
        if records.load(out, group) is None:  # unless another process has just finished the arm
          train_arm(sweep, group, out, log)
  return finish(out, log)


@gathered()
def finish(out: str, log: Callable[[str], None] = say) -> list[Group]:
  """Writes the report on the finished arms in `out`, and returns the groups that are missing.

  Raises:
    UserError: if `out` holds no sweep, or no arm is finished.
  """
  sweep, command = folder.read_sweep(out)
  results = list(records.load_all(out, sweep).values())
  if not results:
    raise UserError(f"no arm of the sweep in {out} is finished yet; run the sweep first")
  with writing(f"the report in {out}"), exclusive.locked(out, folder.LOCK):
    records.write_rows(out, results)
    report.write_report(out, sweep, results, command, log)
  finished = {result.group for result in results}
  return [group for group in sweep.groups() if group not in finished]
