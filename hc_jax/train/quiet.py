"""One fault, one message: what libraries print around a write that failed is dropped.

When one of Orbax's writes fails, its thread logs a traceback, TensorStore prints one for each other
write that then finds its event loop closed, and threads and coroutines add theirs. The fault itself
reaches the user as one StorageError; nothing else is dropped.
"""

import logging
import sys
import threading
from typing import Any

from hc_jax.train.errors import storage_cause


def _aftermath(error: Any) -> bool:
  return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _expected(error: Any) -> bool:
  return _aftermath(error) or bool(storage_cause(error))


class Quiet:
  """Filters what is logged and printed, from `install` to `remove`."""

  def install(self) -> "Quiet":
    """Puts the filters in place; what is not dropped goes where it went before."""
    self._hooks = hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    # absl's logger asks no filters, so its own way to the handlers is cut.
    logger = logging.getLogger("absl")
    self._handle = handle = logger.handle
    logger.handle = lambda record: handle(record) if self.filter(record) else None
    # asyncio speaks of an error that nobody fetched when its future is collected, maybe after
    # `remove`: this filter stays, and drops that alone.
    logging.getLogger("asyncio").addFilter(_fetched)
    # TensorStore's threads print through excepthook, as an uncaught exception of ours would.
    sys.excepthook = lambda kind, error, trace: (
      None if _aftermath(error) else hooks[0](kind, error, trace)
    )
    sys.unraisablehook = lambda args: None if _expected(args.exc_value) else hooks[1](args)
    threading.excepthook = lambda args: None if _expected(args.exc_value) else hooks[2](args)
    return self

  def remove(self) -> None:
    """Takes the filters away."""
    logging.getLogger("absl").handle = self._handle
    sys.excepthook, sys.unraisablehook, threading.excepthook = self._hooks

  def __enter__(self) -> "Quiet":
    return self.install()

  def __exit__(self, *_: Any) -> None:
    self.remove()

  def filter(self, record: logging.LogRecord) -> bool:
    """Keeps errors of other kinds; Orbax also explains itself at length, on every save."""
    error = record.exc_info[1] if record.exc_info else None
    return record.levelno >= logging.ERROR and not _expected(error)


def _fetched(record: logging.LogRecord) -> bool:
  """Keeps what asyncio logs, but for storage errors: the run has reported those itself."""
  return not (record.exc_info and _expected(record.exc_info[1]))
