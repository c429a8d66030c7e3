"""Log lines of libraries after a failed write are dropped, and no others."""

import logging
import sys
import threading
import types

from hc_jax.runs.quiet import Quiet, hide_aftermath

FULL = ValueError(
  "OUT_OF_RANGE: Error writing x: Failed to write 12 bytes: File too large [os_error_code='27']"
)
CLOSED = RuntimeError("Event loop is closed")
OTHER = ValueError("another")


def log(name, error, level=logging.ERROR):
  logging.getLogger(name).log(level, "failed", exc_info=(type(error), error, None))


def test_asyncio_is_silent_of_a_storage_error_even_afterwards(caplog):
  Quiet().install().remove()
  for error in (FULL, CLOSED, OTHER):
    log("asyncio", error)
  assert [record.exc_info[1] for record in caplog.records] == [OTHER]


def test_of_orbax_only_other_errors_are_left_while_it_is_quiet(caplog, monkeypatch):
  from absl import logging as absl_logging  # makes absl's own logger

  # A test in which a run is killed leaves its filter behind, unlike a process.
  monkeypatch.setattr(caplog.handler, "filters", [])
  hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
  with Quiet():
    assert hooks == (sys.excepthook, sys.unraisablehook, threading.excepthook)  # a library's user
    for error in (FULL, CLOSED, OTHER):
      absl_logging.error("failed", exc_info=(type(error), error, None))
    absl_logging.warning("at length")
    log("mine", FULL)
  absl_logging.warning("afterwards")
  said = [(record.name, record.exc_info and record.exc_info[1]) for record in caplog.records]
  assert said == [("absl", OTHER), ("mine", FULL), ("absl", None)]
  assert caplog.records[-1].getMessage() == "afterwards"


def test_a_program_hides_closed_event_loops_and_no_other_error(monkeypatch):
  seen = []
  monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: seen.append(error))
  monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(args.exc_value))
  hide_aftermath()
  for error in (CLOSED, OTHER, FULL):
    sys.excepthook(type(error), error, None)
    sys.unraisablehook(types.SimpleNamespace(exc_value=error))
  assert seen == [OTHER, OTHER, FULL, FULL]
