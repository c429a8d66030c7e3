"""One fault, one message: what libraries log and print around a write that failed is dropped.

When one of Orbax's writes fails, its thread logs a traceback, and TensorStore prints one for each
other write that then finds its event loop closed. The fault itself reaches the user as one
StorageError; nothing else is dropped.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

from hc_jax.runs.errors import storage_cause


def _aftermath(error: Any) -> bool:
  return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _reported(record: logging.LogRecord) -> bool:
  """Returns whether a record is about a fault that the run reports itself."""
  error = record.exc_info[1] if record.exc_info else None
  return _aftermath(error) or bool(storage_cause(error))


class Quiet:
  """Filters what Orbax logs, from `install` to `remove`."""

  def install(self) -> "Quiet":
    """Puts the filters on the handlers: the logger of absl, which Orbax uses, asks no filters."""
    self._handlers = [*logging.getLogger("absl").handlers, *logging.getLogger().handlers]
    if logging.lastResort is not None:  # prints what no other handler takes
      self._handlers.append(logging.lastResort)
    for handler in self._handlers:
      handler.addFilter(self)
    # asyncio speaks of an error that nobody fetched when its future is collected, maybe after
    # `remove`: this filter stays.
    logging.getLogger("asyncio").addFilter(_unreported)
    return self

  def remove(self) -> None:
    """Takes the filters away, except asyncio's."""
    for handler in self._handlers:
      handler.removeFilter(self)

  def __enter__(self) -> "Quiet":
    return self.install()

  def __exit__(self, *_: Any) -> None:
    self.remove()

  def filter(self, record: logging.LogRecord) -> bool:
    """Keeps absl's errors of other kinds; Orbax also explains itself at length, on every save."""
    return record.name != "absl" or (record.levelno >= logging.ERROR and not _reported(record))


def _unreported(record: logging.LogRecord) -> bool:
  return not _reported(record)


def hide_aftermath() -> None:
  """Drops what TensorStore's threads print by Python's hooks; for programs, never for a library."""

  def dropping(hook: Callable[..., Any], error_of: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: None if _aftermath(error_of(*args)) else hook(*args)

  sys.excepthook = dropping(sys.excepthook, lambda kind, error, trace: error)
  sys.unraisablehook = dropping(sys.unraisablehook, lambda args: args.exc_value)
