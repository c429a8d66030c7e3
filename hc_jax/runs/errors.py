"""How a run ends early, each with the exit code of `hc-jax train`."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from hc_jax.errors import UserError


class Stopped(Exception):
  """SIGTERM or SIGINT arrived; the state is saved and the same command goes on from there."""

  exit_code = 75  # EX_TEMPFAIL: schedulers read it as "run me again"

  def _render_traceback_(self) -> list[str]:
    """Returns what IPython shows in the place of a traceback: nothing went wrong."""
    return [str(self)]


class NonFiniteError(Exception):
  """The loss, the gradient or the parameters became NaN or infinite; nothing of it was saved.

  Attributes:
    step: the first at which a number was not finite.
  """

  exit_code = 3

  def __init__(self, message: str, step: int = 0) -> None:
    super().__init__(message)
    self.step = step


class StorageError(Exception):
  """A file of the run cannot be read or written: disk full or broken, read-only, moved away."""

  exit_code = 4


class OutOfMemoryError(Exception):
  """The device's memory is too small for this config."""

  exit_code = 5


# TensorStore reports the system's errors inside errors of other types, with their numbers.
_NUMBER = re.compile(r"os_error_code='(\d+)'")
_WORDS = tuple(
  os.strerror(number)
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
)


def storage_cause(error: BaseException | None, contexts: bool = True) -> str | None:
  """Returns the system's words if `error`, or its cause, is a fault of files; None otherwise.

  Args:
    error: an exception.
    contexts: whether an exception that was being handled counts as a cause.
  """
  while error is not None:
    if isinstance(error, OSError):
      return error.strerror or str(error)
    if number := _NUMBER.search(str(error)):
      return os.strerror(int(number[1]))
    if words := [words for words in _WORDS if words in str(error)]:
      return words[0]
    error = error.__cause__ or (error.__context__ if contexts else None)
  return None


def reason_of(error: BaseException) -> str:
  """Returns the first line of what an error says, with its type where that says more."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  first = (str(error).strip().splitlines() or [""])[0][:200]
  named = isinstance(error, ImportError | ValueError | UserError | OSError) and first
  return first if named else f"{type(error).__name__}: {first}".rstrip(": ")


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
  """Turns a fault of files into a StorageError that names `what` was being written.

  Raises:
    StorageError: a file could not be written; every other exception passes unchanged.
  """
  try:
    yield
  except (Stopped, NonFiniteError, StorageError, UserError):
    raise
  except Exception as error:
    reason = storage_cause(error)
    if reason is None:
      raise
    raise _storage_error(f"{what} could not be written", reason) from error


@contextlib.contextmanager
def storage(workdir: str) -> Iterator[None]:
  """Turns every fault of files that is not reported yet into a StorageError.

  Raises:
    StorageError: a file of the run in `workdir` could not be read or written.
  """
  try:
    yield
  except (Stopped, NonFiniteError, StorageError, UserError):
    raise
  except Exception as error:
    reason = storage_cause(error, contexts=False)
    if reason is None:
      raise
    path = getattr(error, "filename", None) or f"a file in {workdir}"
    raise _storage_error(f"{path} could not be read or written", reason) from error


def _storage_error(fault: str, reason: str) -> StorageError:
  return StorageError(
    f"{fault}: {reason}. Older checkpoints are untouched; make room, or repair the disk or the "
    "permissions, and run the same command to resume"
  )


def memory_cause(error: BaseException) -> str | None:
  """The first line of `error` when it is that the device's memory is too small."""
  reason = str(error).strip().splitlines()[0]
  # What fails in a computation that was dispatched before comes as INTERNAL.
  return reason if "RESOURCE_EXHAUSTED" in reason or "Out of memory" in reason else None
