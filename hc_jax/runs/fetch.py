"""Fetching from a run's mirror: the newest good checkpoint, if the workdir has none as new.

A mirror may hold anything. Files are first put into a folder of their own. They are compared with
the manifest, their names must stay inside, and their sizes are bounded.
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
  """Returns the files that a run needs next to a checkpoint, and the most bytes they may have.

  The config is the first: with it a folder is that of a run.

  Args:
    trackers: names in the folder of the trackers; odd ones are left out.
  """
  names = [name for name in trackers if plain(name)][:_TRACKER_FILES]
  return _SMALL | {f"{workdirs.TRACKERS}/{name}": _TRACKER_BYTES for name in names}


def remote_steps(remote: Remote) -> list[int]:
  """Returns the steps of a mirror's folders of checkpoints, ascending, whole or not."""
  names = remote.list(FOLDER)
  return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def fetch(
  remote: Remote, workdir: str, description: workdirs.Description, say: Callable[[str], None]
) -> tuple[bool, set[int]]:
  """Brings the newest good checkpoint, and what belongs to it, into a workdir without one as new.

  Args:
    remote: the mirror.
    workdir: claimed for a run.
    description: of the run that starts.
    say: takes lines.

  Returns:
    Whether the mirror could be read, and the steps of checkpoints there that are damaged.

  Raises:
    UserError: the mirror holds another run, or has only damaged checkpoints.
    StorageError: the mirror cannot be read, and the workdir has no checkpoint to continue from.
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
      "checkpoint to continue from. Repair the address or the access and run the same command; "
      '`mirror=""` begins anew without it'
    ) from error
  say(f"cannot be read ({reason_of(error)}); the run continues from its workdir")


def compare(remote: Remote, workdir: str, description: workdirs.Description) -> bool:
  """Returns whether a mirror holds a run, which must be the described one.

  Raises:
    UserError: it holds another one, or something else than a run's config.
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
  """Makes a new folder in the workdir, and removes it in the end."""
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
  """Downloads a checkpoint into `staging`; returns what is wrong with it, or None."""
  name, folder = f"{FOLDER}/{step}", path_of(staging, step)
  content = remote.read(f"{name}/{manifest.FILE}", manifest.LIMIT)
  if content is None:
    return _TORN
  folders.make_folder(staging, name)
  try:
    listed = dict(folders.parse_json(content)["files"])
    sizes = remote.sizes(name)
    for file, entry in listed.items():  # before anything is downloaded
      if sizes.get(file) != entry["bytes"]:
        return f"{file} has {sizes.get(file, 'no')} bytes instead of {entry['bytes']}"
    remote.download(name, listed, folder)
  except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
    return f"{manifest.FILE} is damaged ({reason_of(error)})"
  durable.write_atomically(os.path.join(folder, manifest.FILE), content)
  return manifest.fault(folder, step)


def _place(remote: Remote, step: int, staging: str, workdir: str) -> None:
  """Moves what was fetched into the workdir, the checkpoint last."""
  for name, limit in small_files(remote.list(workdirs.TRACKERS)).items():
    if (content := remote.read(name, limit)) is not None:
      if folder := os.path.dirname(name):
        folders.make_folder(workdir, folder)
      durable.write_atomically(os.path.join(workdir, name), content, workdir)
  folders.make_folder(workdir, FOLDER)
  shutil.rmtree(path_of(workdir, step), ignore_errors=True)  # a save that did not come to an end
  os.rename(path_of(staging, step), path_of(workdir, step))
  durable.sync(os.path.join(workdir, FOLDER))
