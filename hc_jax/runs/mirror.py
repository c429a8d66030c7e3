"""Mirror of a run: a remote copy of its checkpoints and metrics, which outlasts the machine.

The mirror uses the file names of the run's folder. The manifest of a checkpoint is copied last, so
a checkpoint without one is incomplete. A thread copies; it reports a failure, tries again, and
never stops the run. `hc_jax.runs.fetch` reads from a mirror.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable
from types import TracebackType

from hc_jax import folders
from hc_jax.errors import UserError
from hc_jax.runs import fetch, manifest, metrics
from hc_jax.runs import workdir as workdirs
from hc_jax.runs.checkpoint import FOLDER, path_of, steps_of
from hc_jax.runs.errors import reason_of
from hc_jax.runs.remote import Remote

# Seconds between attempts: the first wait, and the longest.
FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0
# Seconds that the end of a run waits for copying: after a stop (a machine may be about to go away),
# and after the last step.
STOPPED, FINISHED = 60.0, 600.0


def open_mirror(address: str, say: Callable[[str], None] = print) -> "Mirror | NoMirror":
  """Returns the mirror at an address, or one that does nothing for an empty address.

  Raises:
    UserError: the address cannot be opened; see `Remote`.
  """
  return Mirror(Remote(address), say) if address else NoMirror()


class NoMirror:
  """Mirror that does nothing, for a run without a mirror and for all processes except process 0."""

  def fetch(self, workdir: str, description: workdirs.Description) -> None:
    """Does nothing."""

  def push(self) -> None:
    """Does nothing."""

  def __enter__(self) -> "NoMirror":
    return self

  def __exit__(self, *_: object) -> None:
    pass


class Mirror:
  """Context manager that copies a run to a remote folder, in a thread.

  Call `fetch` once the workdir is claimed, then enter the context, then call `push` whenever a
  checkpoint is durable. Checkpoints that the run has removed are removed from the mirror once a
  newer one is complete there.
  """

  def __init__(self, remote: Remote, say: Callable[[str], None]) -> None:
    self._remote, self._say_line = remote, say
    self._workdir, self._description = "", None
    self._compared = False  # whether the remote folder is known not to hold another run
    self._copied: dict[str, bytes] = {}  # digests of files that were copied, or found there
    self._faulty: set[int] = set()  # steps of damaged checkpoints in the mirror
    self._changed = threading.Condition()
    self._wanted = self._done = 0  # numbers of calls of push: requested, and carried out
    self._closing = self._ended = False
    self._failure = ""

  def _say(self, line: str) -> None:
    self._say_line(f"mirror {self._remote.address}: {line}")

  def fetch(self, workdir: str, description: workdirs.Description) -> None:
    """Fetches the newest good checkpoint to the workdir; see `hc_jax.runs.fetch.fetch`.

    Raises:
      UserError, StorageError: as in `hc_jax.runs.fetch.fetch`, or the mirror is in the workdir.
    """
    self._workdir, self._description = workdir, description
    if self._remote.is_local and _is_inside(self._remote.root, workdir):
      raise UserError(f"mirror={self._remote.address} is in the workdir; choose another place")
    try:
      self._compared, self._faulty = fetch.fetch(self._remote, workdir, description, self._say)
    except UserError as error:
      raise UserError(f"mirror {self._remote.address}: {error}") from error

  def push(self) -> None:
    """Requests a copy of the run as it is on disk now; returns at once."""
    with self._changed:
      self._wanted += 1
      self._changed.notify_all()

  def __enter__(self) -> "Mirror":
    """Starts the thread, which first copies the files that an earlier start did not copy."""
    self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
    self.push()
    self._thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self.push()  # rows after the last checkpoint
    self.close(FINISHED if error is None else STOPPED if isinstance(error, Exception) else 0.0)

  def close(self, seconds: float) -> None:
    """Waits for copying to finish, at most `seconds`; reports what was not copied."""
    with self._changed:
      self._closing = True
      self._changed.notify_all()
      if not self._changed.wait_for(self._is_done, min(seconds, 1.0)) and seconds:
        self._say(f"still copying; waiting up to {seconds:g} s")
        self._changed.wait_for(self._is_done, seconds)
      if not self._is_done():
        why = f": {self._failure}" if self._failure else ""
        self._say(
          f"not all of the run was copied in {seconds:g} s{why}. The same command, with this "
          "workdir, copies the rest"
        )
      self._ended = True
      self._changed.notify_all()

  def _is_done(self) -> bool:
    return self._done >= self._wanted or self._ended

  def _work(self) -> None:
    """Copies after each request, until the mirror is closed."""
    wait = FIRST_WAIT
    while True:
      with self._changed:
        self._changed.wait_for(lambda: self._wanted > self._done or self._ended)
        if self._ended:
          return
        target = self._wanted
      try:
        self._copy()
      except UserError as error:  # the mirror holds another run, so trying again is useless
        self._say(f"{error}. Nothing is copied there")
        with self._changed:
          self._ended = True
          self._changed.notify_all()
      except Exception as error:  # the store's package has errors of its own
        self._wait_after(reason_of(error), wait)
        wait = min(2 * wait, LONGEST_WAIT)
      else:
        if self._failure:
          self._say("is complete again")
        wait, self._failure = FIRST_WAIT, ""
        with self._changed:
          self._done = target
          self._changed.notify_all()

  def _wait_after(self, reason: str, wait: float) -> None:
    """Reports a failure, if its reason is new, and waits; at most a second while closing."""
    if reason != self._failure:
      self._say(f"cannot be written ({reason}); training continues, trying again in {wait:g} s")
    self._failure = reason
    with self._changed:
      closing = self._closing
      pause = min(wait, 1.0) if closing else wait
      self._changed.wait_for(lambda: self._ended or self._closing != closing, pause)

  def _copy(self) -> None:
    """Copies the run's new files, and removes checkpoints that the run no longer has."""
    if not self._compared:
      fetch.compare(self._remote, self._workdir, self._description)
      self._compared = True
    new = [step for step in steps_of(self._workdir) if self._key(step) not in self._copied]
    self._copy_small()  # after listing the steps, so that the rows of each step are copied
    there = fetch.remote_steps(self._remote)
    # The newest first; last those whose folder exists there already and may be complete.
    for step in sorted(new, key=lambda step: (step in there, -step)):
      if self._ended:
        return
      self._copy_checkpoint(step)
    self._prune()

  def _copy_small(self) -> None:
    trackers = folders.list_folder(self._workdir, workdirs.TRACKERS)
    for name, limit in fetch.small_files(trackers).items():
      with contextlib.suppress(FileNotFoundError):
        content = folders.read_bytes(self._workdir, name, limit)
        if name == metrics.FILE:
          content = content[: content.rfind(b"\n") + 1]  # the last row may be incomplete
        if self._copied.get(name) != (digest := _digest(content)):
          self._remote.write(name, content)
          self._copied[name] = digest

  def _copy_checkpoint(self, step: int) -> None:
    """Copies a checkpoint with its manifest last, unless the mirror has it already."""
    folder, name = path_of(self._workdir, step), f"{FOLDER}/{step}"
    try:
      content = folders.read_bytes(folder, manifest.FILE, manifest.LIMIT)
      files = json.loads(content)["files"]
      sizes = {file: entry["bytes"] for file, entry in files.items()}
      whole = {**sizes, manifest.FILE: len(content)}
      is_there = self._remote.read(self._key(step), manifest.LIMIT) == content
      if not is_there or step in self._faulty or self._remote.sizes(name) != whole:
        self._remote.remove(name, manifest.FILE)
        self._remote.upload(folder, files, name)
        if self._remote.sizes(name) != sizes:
          raise OSError(f"checkpoint {step} is not there as it was written")
        self._remote.write(self._key(step), content)
        self._faulty.discard(step)
    except FileNotFoundError:
      if manifest.exists(folder):
        raise
      return  # the run removed it meanwhile; the next `_prune` removes the partial copy
    self._copied[self._key(step)] = _digest(content)

  def _prune(self) -> None:
    """Removes checkpoints that the run no longer has, once the mirror has a newer one."""
    kept = set(steps_of(self._workdir))
    newest = max((step for step in kept if self._key(step) in self._copied), default=-1)
    for step in fetch.remote_steps(self._remote):
      if step not in kept and step < newest:
        self._remote.remove(f"{FOLDER}/{step}", manifest.FILE)
        self._copied.pop(self._key(step), None)

  def _key(self, step: int) -> str:
    return f"{FOLDER}/{step}/{manifest.FILE}"


def _digest(content: bytes) -> bytes:
  return hashlib.sha256(content).digest()


def _is_inside(path: str, folder: str) -> bool:
  path, folder = os.path.realpath(path), os.path.realpath(folder)
  return os.path.commonpath([path, folder]) == folder
