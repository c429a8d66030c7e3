"""Lock of a workdir, so that one run at a time uses it, even if several hosts share its disk.

The file `lock` exists while a run does. The system's own lock on that file (flock) shows whether a
process of this host still holds it. Between hosts, or on a file system without flock, the content
of the file decides: host, process, and a heartbeat every 15 seconds. An owner on another host that
was silent for two minutes counts as gone. So the clocks of the hosts must agree to well under two
minutes.
"""

import contextlib
import dataclasses
import functools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from hc_jax import exclusive, folders
from hc_jax.errors import UserError
from hc_jax.runs.errors import StorageError

FILE = "lock"
HEARTBEAT, GONE = 15.0, 120.0  # seconds
_LAST = 1e11  # seconds since 1970; a later heartbeat is not a time
_SIZE = 512  # every record has this size and one write, so that a reader never sees half a record


@dataclasses.dataclass(frozen=True)
class Owner:
  """Owner of a lock.

  Attributes:
    host: name of the owner's host.
    pid: number of the owner's process.
    start: start of that process in ticks since boot, since another process may get the same pid.
    heartbeat: time of the owner's last sign of life, in seconds since 1970.
  """

  host: str
  pid: int
  start: str
  heartbeat: float

  def __str__(self) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.heartbeat))
    return f"process {self.pid} on {self.host}, last heartbeat {when}"


@contextlib.contextmanager
def locked(folder: str, log: Callable[[str], None] = print) -> Iterator[None]:
  """Holds the lock of a folder during the context; takes it over from an owner that is gone.

  Raises:
    UserError: another run holds the lock.
    OSError: the folder cannot be written.
  """
  path = os.path.join(folder, FILE)
  file = _open(path)
  with file:
    if owner := _read(file):
      log(f"the lock of {owner} is taken over: {_why_gone(owner, file, folder, log)}")
    me = Owner(socket.gethostname(), os.getpid(), _start_of(os.getpid()), time.time())
    _write(file, me)
    left = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, file, me, left), daemon=True, name="lock")
    beats.start()
    try:
      yield
    finally:
      left.set()
      beats.join()
      with contextlib.suppress(OSError):
        os.unlink(path)


def _open(path: str) -> IO[str]:
  """Opens the lock file and takes the system's lock on it, if the file system has locks."""
  folder = os.path.dirname(path)
  while True:
    # Not opened for appending, because every write would then go to the end.
    descriptor = folders.open_file(folder, FILE, os.O_RDWR | os.O_CREAT)
    file = os.fdopen(descriptor, "r+", encoding="utf-8")
    if os.fstat(descriptor).st_nlink > 1:
      file.close()
      raise UserError(f"{path} is another file too, by a hard link; remove it")
    try:
      exclusive.acquire(descriptor, functools.partial(_refuse, folder, file))
      with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(descriptor)):
          return file
    except UserError:
      file.close()
      raise
    file.close()  # its owner has just removed it


def _refuse(folder: str, file: IO[str]) -> None:
  raise _in_use(folder, _read(file))


def _in_use(folder: str, owner: Owner | None) -> UserError:
  return UserError(
    f"workdir {folder} is in use by another run ({owner or 'unknown'}); wait for it, stop it, or "
    "choose another `workdir`"
  )


def _why_gone(owner: Owner, file: IO[str], folder: str, log: Callable[[str], None]) -> str:
  """Returns the evidence that `owner` is gone; waits for a heartbeat if that is needed to decide.

  Raises:
    UserError: the owner lives.
  """
  if owner.host == socket.gethostname():
    if _start_of(owner.pid) == owner.start:
      raise _in_use(folder, owner)
    return "that process is gone"
  # A heartbeat in the future counts as one of now, so that the wait ends.
  silent = max(time.time() - owner.heartbeat, 0)
  if silent < GONE:
    log(f"waiting for a sign of life of {owner}, for {GONE - silent:.0f} s at most")
  start = time.monotonic()
  while silent + time.monotonic() - start < GONE:
    time.sleep(min(1.0, GONE / 10))
    if _read(file) != owner:
      raise _in_use(folder, _read(file))
  return f"no heartbeat for {silent + time.monotonic() - start:.0f} s"


def _start_of(pid: int) -> str:
  """Returns the start of a process on this host; "" if it does not exist or /proc is missing."""
  try:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
      return file.read().rpartition(")")[2].split()[19]
  except (OSError, IndexError):
    return ""


def _read(file: IO[str]) -> Owner | None:
  try:
    owner = Owner(**folders.parse_json(os.pread(file.fileno(), _SIZE, 0)))
  except (ValueError, TypeError):
    return None  # empty: its owner ended before it wrote anything
  values = (owner.host, owner.pid, owner.start, owner.heartbeat)
  kinds = (str, int, str, float)
  sound = all(type(value) is kind for value, kind in zip(values, kinds, strict=True))
  return owner if sound and 0 <= owner.heartbeat < _LAST else None


def _write(file: IO[str], owner: Owner) -> None:
  text = json.dumps(dataclasses.asdict(owner)).ljust(_SIZE).encode()
  os.pwrite(file.fileno(), text, 0)


def _beat(path: str, file: IO[str], me: Owner, left: threading.Event) -> None:
  last = me
  while not left.wait(HEARTBEAT):
    with contextlib.suppress(OSError):  # saving a checkpoint reports a fault of the disk
      if (now := _read(file)) is None:
        continue  # another process is writing it: read again
      if now != last:
        print(f"error: workdir {os.path.dirname(path)} was taken over by {now}", file=sys.stderr)
        os._exit(StorageError.exit_code)
      last = dataclasses.replace(me, heartbeat=time.time())
      _write(file, last)
