"""Exceptions that end a run early, with the exit code of `hc-jax train` for each."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from hc_jax.errors import UserError


class Stopped(Exception):
  """SIGTERM or SIGINT arrived; the state is saved, and the same command resumes the run."""

  exit_code = 75  # EX_TEMPFAIL: schedulers read it as "run me again"

  def _render_traceback_(self) -> list[str]:
    """Returns the lines that IPython shows instead of a traceback, because nothing went wrong."""
    return [str(self)]


class NonFiniteError(Exception):
  """The loss, the gradient or the parameters became NaN or infinite; such a state is not saved.

  Attributes:
    step: first step with a number that is not finite.
  """

  exit_code = 3

  def __init__(self, message: str, step: int = 0) -> None:
    super().__init__(message)
    self.step = step


class StorageError(Exception):
  """A file of the run cannot be read or written: the disk is full, broken, read-only or gone."""

  exit_code = 4


class OutOfMemoryError(Exception):
  """The device's memory is too small for this config."""

  exit_code = 5


# TensorStore wraps the system's errors in other types; their numbers are in its messages.
_NUMBER = re.compile(r"os_error_code='(\d+)'")
_WORDS = tuple(
  os.strerror(number)
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
)


def storage_cause(error: BaseException | None, contexts: bool = True) -> str | None:
  """Returns the system's message if `error` or its cause is a storage fault; None otherwise.

  Args:
    error: an exception.
    contexts: whether an exception that was being handled (`__context__`) counts as a cause.
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
  """Returns the first line of an error's message, with its type if the message alone is unclear."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  first = (str(error).strip().splitlines() or [""])[0][:200]
  named = isinstance(error, ImportError | ValueError | UserError | OSError) and first
  return first if named else f"{type(error).__name__}: {first}".rstrip(": ")


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
  """Turns a storage fault in the context into a StorageError that names `what` was being written.

  Raises:
    StorageError: a file could not be written. Every other exception passes unchanged.
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
  """Turns every storage fault in the context that is not yet a StorageError into one.

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
  """Returns the first line of `error` if the device ran out of memory; None otherwise."""
  reason = str(error).strip().splitlines()[0]
  # A failure in a computation that was dispatched earlier is reported as INTERNAL.
  return reason if "RESOURCE_EXHAUSTED" in reason or "Out of memory" in reason else None
