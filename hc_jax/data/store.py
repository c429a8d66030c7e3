"""Folders of prepared data, which exist whole or not at all, even if their writer is killed."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

from hc_jax import durable, exclusive
from hc_jax.errors import UserError

_TEMPORARY = ".tmp-"
_LOCK = ".lock"
# Numbers of an OSError for a full disk.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def data_folder(data_dir: str = "") -> str:
  """Returns the folder of prepared data, and creates it if it is missing.

  Args:
    data_dir: the folder; "" is $HC_JAX_DATA, or ~/.cache/hc_jax if that is not set.

  Raises:
    UserError: the folder cannot be created or written.
  """
  folder = data_path(data_dir)
  with writing(folder):
    os.makedirs(folder, exist_ok=True)
  return folder


def data_path(data_dir: str = "") -> str:
  """Returns the path of `data_folder` without creating it."""
  folder = data_dir or os.environ.get("HC_JAX_DATA", "") or os.path.join("~", ".cache", "hc_jax")
  return os.path.abspath(os.path.expanduser(folder))


@contextlib.contextmanager
def writing(folder: str) -> Iterator[None]:
  """Turns a fault of the disk in the context into a UserError."""
  try:
    yield
  except RuntimeError as error:  # array_record raises no OSError
    for number in FULL:
      if os.strerror(number) in str(error):
        raise _full(folder, os.strerror(number)) from error
    raise
  except OSError as error:
    if error.errno in FULL:
      raise _full(folder, error.strerror) from error
    raise UserError(
      f"cannot write prepared data to {folder}: {error.strerror or error}; "
      "set `data_dir` (or HC_JAX_DATA) to a folder that can be written"
    ) from error


def check_space(folder: str, needed: int) -> None:
  """Raises UserError if `folder`'s disk has less than `needed` bytes free."""
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise _full(folder, f"{free / 1e6:.1f} MB free, about {needed / 1e6:.1f} MB needed")


def _full(folder: str, why: str) -> UserError:
  return UserError(
    f"the disk of {folder} is full ({why}): prepared data does not fit; nothing half-written is "
    "left. Free some space, or set `data_dir` (or HC_JAX_DATA) to a folder on another disk"
  )


@contextlib.contextmanager
def locked(folder: str, key: str, log: Callable[[str], None]) -> Iterator[bool]:
  """Holds the lock of `key` during the context, so that only one process prepares the data.

  Other processes wait, and then find the data ready. The system drops the lock of a process that
  dies. On a file system without locks nobody waits, and `build` still keeps one complete result.

  Yields:
    Whether the lock is held; False if the file system has no locks.
  """
  with contextlib.ExitStack() as stack:
    with writing(folder):
      lock = exclusive.locked(
        folder, key + _LOCK, lambda: log(f"data: waiting for another process to prepare {key}")
      )
      held = stack.enter_context(lock)
    yield held


@contextlib.contextmanager
def build(folder: str, key: str) -> Iterator[str]:
  """Yields a temporary folder, and renames it to `folder/key` if the context ends without an error.

  All files are forced to disk before the rename. After an error the folder is removed. Call it with
  the lock of `key` held.
  """
  with writing(folder):
    temporary = tempfile.mkdtemp(prefix=f"{_TEMPORARY}{key}-", dir=folder)
    # mkdtemp's folder is private, but prepared data is shared as far as the user's umask allows.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o777 & ~umask)
  try:
    with writing(folder):
      yield temporary
      for name in os.listdir(temporary):
        durable.sync(os.path.join(temporary, name))
      durable.sync(temporary)
      _rename(temporary, os.path.join(folder, key))
      durable.sync(folder)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: str, final: str) -> None:
  try:
    os.rename(temporary, final)
  except OSError:
    if not os.path.isdir(final):
      raise
    # Without locks another process may have been first, and its result is equally good.


def remove(folder: str, key: str) -> None:
  """Removes `folder/key`; renames it first, so that nobody sees it half-removed."""
  path = os.path.join(folder, key)
  if not os.path.lexists(path):
    return
  with writing(folder):
    doomed = tempfile.mkdtemp(prefix=f"{_TEMPORARY}{key}-", dir=folder)
    os.rename(path, os.path.join(doomed, key))
    shutil.rmtree(doomed, ignore_errors=True)


def clean(folder: str, own_key: str) -> None:
  """Removes temporary folders of processes that died. Call it with the lock of `own_key` held."""
  for name in os.listdir(folder):
    if not name.startswith(_TEMPORARY):
      continue
    key = name.removeprefix(_TEMPORARY).rpartition("-")[0]
    if key == own_key or _is_unlocked(os.path.join(folder, key + _LOCK)):
      shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def _is_unlocked(path: str) -> bool:
  try:
    descriptor = os.open(path, os.O_RDWR)
  except OSError:
    return False
  try:
    return exclusive.acquire(descriptor, _busy)
  except BlockingIOError:
    return False
  finally:
    os.close(descriptor)


def _busy() -> None:
  raise BlockingIOError


def remove_tree(path: str) -> None:
  """Removes a folder inside a temporary one, if it exists."""
  if os.path.isdir(path):
    shutil.rmtree(path)
