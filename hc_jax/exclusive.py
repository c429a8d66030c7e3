"""The system's lock on a file (flock): for one process at a time, and dropped when that ends."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from hc_jax import folders


def acquire(descriptor: int, busy: Callable[[], None] = lambda: None) -> bool:
  """Takes the lock of an open file, and waits for it.

  Args:
    descriptor: of the file.
    busy: is called before waiting; it may raise instead.

  Returns:
    Whether the lock is held; False where the file system has none.
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
  """Holds the lock of a file in `folder` while it is entered; makes the file, and leaves it.

  Yields:
    whether the lock is held, as `acquire`.

  Raises:
    UserError: the file is a link, or not a plain file.
    OSError: the folder cannot be written.
  """
  descriptor = folders.open_file(folder, name, os.O_RDWR | os.O_CREAT)
  try:
    yield acquire(descriptor, busy)
  finally:
    os.close(descriptor)
