"""Fetching from a run's mirror: the newest good checkpoint, if it is newer than the workdir's.

A mirror may hold anything. So files go to a separate folder first, where they are compared with the
manifest. Their names must stay inside that folder, and their sizes are bounded.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator

from hc_jax import durable, folders
from hc_jax.errors import UserError
from hc_jax.runs import manifest, metrics, tokenizer
from hc_jax.runs import workdir as workdirs
from hc_jax.runs.checkpoint import FOLDER, path_of, steps_of
from hc_jax.runs.errors import StorageError, reason_of
from hc_jax.runs.remote import Remote, plain

WAITS = (1.0, 4.0)  # seconds before another try
_SMALL = {
  workdirs.CONFIG: folders.JSON_BYTES,
  **{f"tokenizer{suffix}": tokenizer.LARGEST for suffix in tokenizer.SUFFIXES},
  metrics.FILE: metrics.LIMIT,
}
_TRACKER_FILES, _TRACKER_BYTES = 64, 1 << 20
_TORN = f"no {manifest.FILE}: its copying did not come to an end"


def small_files(trackers: Iterable[str]) -> dict[str, int]:
  """Returns the files that a run needs next to a checkpoint, with the largest size of each.

  The config is the first, because a folder with a config counts as a run.

  Args:
    trackers: names in the trackers' folder; names that are not plain are left out.
  """
  names = [name for name in trackers if plain(name)][:_TRACKER_FILES]
  return _SMALL | {f"{workdirs.TRACKERS}/{name}": _TRACKER_BYTES for name in names}


def remote_steps(remote: Remote) -> list[int]:
  """Returns the steps of all checkpoint folders of a mirror, ascending, complete or not."""
  names = remote.list(FOLDER)
  return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def fetch(
  remote: Remote, workdir: str, description: workdirs.Description, say: Callable[[str], None]
) -> tuple[bool, set[int]]:
  """Copies the newest good checkpoint and its files to a workdir that has none as new.

  Args:
    remote: the mirror.
    workdir: folder claimed for a run.
    description: task and config of the run that starts.
    say: called with lines for the user.

  Returns:
    Whether the mirror could be read, and the steps of its damaged checkpoints.

  Raises:
    UserError: the mirror holds another run, or all its checkpoints are damaged.
    StorageError: the mirror cannot be read, and the workdir has no checkpoint to resume from.
  """
  for wait in (*WAITS, None):
    try:
      return True, _fetch(remote, workdir, description, say)
    except UserError:
      raise
    except Exception as error:  # the store's package has errors of its own
      if wait is None:
        _unreachable(remote, workdir, error, say)
      else:
        say(f"cannot be read ({reason_of(error)}); trying again in {wait:g} s")
        time.sleep(wait)
  return False, set()


def _unreachable(
  remote: Remote, workdir: str, error: Exception, say: Callable[[str], None]
) -> None:
  if not steps_of(workdir):
    raise StorageError(
      f"mirror {remote.address} cannot be read ({reason_of(error)}), and {workdir} has no "
      "checkpoint to continue from; correct the address or the access and run the same command, or "
      'give `mirror=""` to begin anew without it'
    ) from error
  say(f"cannot be read ({reason_of(error)}); the run continues from its workdir")


def compare(remote: Remote, workdir: str, description: workdirs.Description) -> bool:
  """Returns whether a mirror holds the described run; False if it holds none.

  Raises:
    UserError: the mirror holds another run, or a config that is not a run's.
  """
  with _staging(workdir) as staging:
    return _compare(remote, workdir, description, staging)


def _compare(remote: Remote, workdir: str, description: workdirs.Description, staging: str) -> bool:
  content = remote.read(workdirs.CONFIG, folders.JSON_BYTES)
  if content is None:
    return False
  durable.write_atomically(os.path.join(staging, workdirs.CONFIG), content)
  workdirs.check_same_run(staging, description, "it", "`mirror`")
  begun = os.path.exists(os.path.join(workdir, workdirs.CONFIG))
  if begun and workdirs.saved_origin(staging) != workdirs.saved_origin(workdir):
    raise UserError("it holds a fork of another origin; choose another `mirror`")
  return True


@contextlib.contextmanager
def _staging(workdir: str) -> Iterator[str]:
  """Creates a new folder in the workdir, and removes it at the end of the context."""
  path = os.path.join(workdir, workdirs.FETCHED)
  shutil.rmtree(path, ignore_errors=True)
  os.mkdir(path)
  try:
    yield path
  finally:
    shutil.rmtree(path, ignore_errors=True)


def _fetch(
  remote: Remote, workdir: str, description: workdirs.Description, say: Callable[[str], None]
) -> set[int]:
  newest, faults = max(steps_of(workdir), default=-1), {}
  with _staging(workdir) as staging:
    there = remote_steps(remote) if _compare(remote, workdir, description, staging) else []
    for step in reversed([step for step in there if step > newest]):
      start = time.perf_counter()
      reason = _download(remote, step, staging)
      if reason is None:
        _place(remote, step, staging, workdir)
        seconds = time.perf_counter() - start
        say(f"checkpoint {step} is fetched, with the metrics so far, in {seconds:.1f} s")
        return set(faults)
      say(f"checkpoint {step} is passed over: {reason}")
      faults[step] = reason
  damaged = [f"{step}: {reason}" for step, reason in faults.items() if reason != _TORN]
  if damaged and newest < 0:
    raise UserError(
      f"none of its checkpoints is good: {'; '.join(damaged)}. Restore it from a copy, or choose "
      "another `mirror` to begin anew"
    )
  return set(faults)


def _download(remote: Remote, step: int, staging: str) -> str | None:
  """Downloads a checkpoint to `staging`; returns its fault in words, or None if it is good."""
  name, folder = f"{FOLDER}/{step}", path_of(staging, step)
  content = remote.read(f"{name}/{manifest.FILE}", manifest.LIMIT)
  if content is None:
    return _TORN
  folders.make_folder(staging, name)
  try:
    listed = dict(folders.parse_json(content)["files"])
    sizes = remote.sizes(name)
    for file, entry in listed.items():  # first, so that a damaged checkpoint is not downloaded
      if sizes.get(file) != entry["bytes"]:
        return f"{file} has {sizes.get(file, 'no')} bytes instead of {entry['bytes']}"
    remote.download(name, listed, folder)
  except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
    return f"{manifest.FILE} is damaged ({reason_of(error)})"
  durable.write_atomically(os.path.join(folder, manifest.FILE), content)
  return manifest.fault(folder, step)


def _place(remote: Remote, step: int, staging: str, workdir: str) -> None:
  """Moves the fetched files to the workdir, the checkpoint last."""
  for name, limit in small_files(remote.list(workdirs.TRACKERS)).items():
    if (content := remote.read(name, limit)) is not None:
      if folder := os.path.dirname(name):
        folders.make_folder(workdir, folder)
      durable.write_atomically(os.path.join(workdir, name), content, workdir)
  folders.make_folder(workdir, FOLDER)
  shutil.rmtree(path_of(workdir, step), ignore_errors=True)  # an interrupted save
  os.rename(path_of(staging, step), path_of(workdir, step))
  durable.sync(os.path.join(workdir, FOLDER))
