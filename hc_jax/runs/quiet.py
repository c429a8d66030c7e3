"""Filters for the log lines of libraries after a failed write, so that one fault gives one message.

When a write of Orbax fails, its thread logs a traceback, and TensorStore prints one for each other
write that then finds its event loop closed. The user gets the fault as one StorageError. Only these
log lines are dropped.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

from hc_jax.runs.errors import storage_cause


def _aftermath(error: Any) -> bool:
  return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _reported(record: logging.LogRecord) -> bool:
  """Returns whether a log record is about a fault that the run reports itself."""
  error = record.exc_info[1] if record.exc_info else None
  return _aftermath(error) or bool(storage_cause(error))


class Quiet:
  """Filter of Orbax's log lines, active from `install` to `remove`."""

  def install(self) -> "Quiet":
    """Adds the filter to the handlers, because absl's logger, which Orbax uses, ignores filters."""
    self._handlers = [*logging.getLogger("absl").handlers, *logging.getLogger().handlers]
    if logging.lastResort is not None:  # the handler for records that no other handler takes
      self._handlers.append(logging.lastResort)
    for handler in self._handlers:
      handler.addFilter(self)
    # asyncio logs an error that nobody retrieved when the future is collected. That may be after
    # `remove`, so this filter stays.
    logging.getLogger("asyncio").addFilter(_unreported)
    return self

  def remove(self) -> None:
    """Removes the filter from the handlers; asyncio's filter stays."""
    for handler in self._handlers:
      handler.removeFilter(self)

  def __enter__(self) -> "Quiet":
    return self.install()

  def __exit__(self, *_: Any) -> None:
    self.remove()

  def filter(self, record: logging.LogRecord) -> bool:
    """Keeps a record unless it is below ERROR from absl (Orbax logs on every save) or reported."""
    return record.name != "absl" or (record.levelno >= logging.ERROR and not _reported(record))


def _unreported(record: logging.LogRecord) -> bool:
  return not _reported(record)


def hide_aftermath() -> None:
  """Drops tracebacks that TensorStore's threads print by Python's hooks. Only programs call it."""

  def dropping(hook: Callable[..., Any], error_of: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: None if _aftermath(error_of(*args)) else hook(*args)

  sys.excepthook = dropping(sys.excepthook, lambda kind, error, trace: error)
  sys.unraisablehook = dropping(sys.unraisablehook, lambda args: args.exc_value)
