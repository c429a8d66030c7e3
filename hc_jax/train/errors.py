"""How a run ends early, each with the exit code of train.py."""

import contextlib
import errno
from collections.abc import Iterator


class Stopped(Exception):
  """SIGTERM or SIGINT arrived; the state is saved and the same command goes on from there."""

  exit_code = 75  # EX_TEMPFAIL: schedulers read it as "run me again"


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
  """The workdir cannot be written any more: disk full, quota, read-only."""

  exit_code = 4


class OutOfMemoryError(Exception):
  """The device's memory is too small for this config."""

  exit_code = 5


_ERRNOS = {
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EFBIG,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
}
# TensorStore reports the system's words inside errors of other types.
_WORDS = (
  "No space left on device",
  "Disk quota exceeded",
  "File too large",
  "Read-only file system",
  "Permission denied",
)


def storage_cause(error: BaseException | None) -> str | None:
  """The reason when `error`, or what caused it, is that files cannot be written."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _ERRNOS:
      return error.strerror
    found = [words for words in _WORDS if words in str(error)]
    if found:
      return found[0]
    error = error.__cause__ or error.__context__
  return None


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
  """Turns "cannot write" into a StorageError that names `what` was being written.

  Raises:
    StorageError: a write failed because of the disk; anything else passes unchanged.
  """
  try:
    yield
  except (Stopped, NonFiniteError, StorageError):
    raise
  except Exception as error:
    reason = storage_cause(error)
    if reason is None:
      raise
    raise StorageError(
      f"{what} could not be written: {reason}. Older checkpoints are untouched; make room (or mend "
      "the disk) and run the same command to resume"
    ) from error


def memory_cause(error: BaseException) -> str | None:
  """The first line of `error` when it is that the device's memory is too small."""
  reason = str(error).strip().splitlines()[0]
  # What fails in a computation that was dispatched before comes as INTERNAL.
  return reason if "RESOURCE_EXHAUSTED" in reason or "Out of memory" in reason else None
