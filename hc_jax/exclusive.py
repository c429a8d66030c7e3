"""The system's lock on a file (flock), which one process holds at a time and loses when it ends."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from hc_jax import folders


def acquire(descriptor: int, busy: Callable[[], None] = lambda: None) -> bool:
  """Takes the lock of an open file; waits if another process holds it.

  Args:
    descriptor: descriptor of the file.
    busy: function called before waiting; it may raise to avoid the wait.

  Returns:
    Whether the lock is held; False if the file system has no locks.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    busy()
    fcntl.flock(descriptor, fcntl.LOCK_EX)
  except OSError:
    return False
  return True


@contextlib.contextmanager
def locked(folder: str, name: str, busy: Callable[[], None] = lambda: None) -> Iterator[bool]:
  """Holds the lock of a file in `folder` during the context; creates the file and keeps it.

  Yields:
    Whether the lock is held, as from `acquire`.

  Raises:
    UserError: the file is a link, or not a plain file.
    OSError: the folder cannot be written.
  """
  descriptor = folders.open_file(folder, name, os.O_RDWR | os.O_CREAT)
  try:
    yield acquire(descriptor, busy)
  finally:
    os.close(descriptor)
