"""Trackers: objects of the user's own that are given every row of metrics.

A tracker has the two methods of a logging backend of metrax and Tunix. They are `log_scalar(event,
value, **kwargs)`, called with `step=`, and `close()`. `train.trackers` names factories,
`module:factory`, each called with the workdir and the config. Only the start of a run resolves
these names, from its caller's config. Opening a run never does.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hc_jax.errors import UserError
from hc_jax.runs.errors import reason_of
from hc_jax.user_modules import find

ROWS = 1000  # that may wait for a slow tracker
CLOSING = 30.0  # seconds to be given the rows that wait, and to close


class Tracker(Protocol):
  """An object that is given the metrics of a run."""

  def log_scalar(self, event: str, value: float, **kwargs: Any) -> None:
    """Takes one number.

    Args:
      event: its name, such as `train/loss`.
      value: the number.
      **kwargs: `step`, the number of optimizer steps.
    """

  def close(self) -> None:
    """Ends; nothing is given to it any more."""


Factory = Callable[[str, dict[str, Any]], Tracker]


def find_factories(specs: Sequence[str]) -> list[tuple[str, Factory]]:
  """Returns the factories that `module:factory` name, with their names.

  Raises:
    UserError: a module or factory does not exist, or importing it fails.
  """
  return [(spec, find("`trackers`", spec)) for spec in specs]


class Trackers:
  """Hands rows to trackers, each in a thread of its own; none ever stops or delays the run.

  The first failure of each is said. It is given the later rows all the same.
  """

  def __init__(
    self,
    factories: Sequence[tuple[str, Factory]],
    workdir: str,
    config: dict[str, Any],
    log: Callable[[str], None] = print,
  ) -> None:
    """Makes the trackers; one that cannot be made is said and left out.

    Args:
      factories: of `find_factories`.
      workdir: of the run. Its folder `trackers` is for files that a tracker needs to continue.
      config: of the run, as JSON values.
      log: takes lines.

    Raises:
      UserError: as a factory raises it.
    """
    self._feeds = []
    for spec, factory in factories:
      try:
        tracker = factory(workdir, config)
      except UserError as error:
        raise UserError(f"`trackers={spec}`: {error}") from error
      except Exception as error:  # the user's program may do anything
        log(f"warning: tracker {spec} cannot be made ({reason_of(error)}); the run has none of it")
      else:
        self._feeds.append(_Feed(spec, tracker, log))

  def write(self, row: dict[str, Any]) -> None:
    """Gives a row `{"step": ..., name: value, ...}` to all trackers; returns at once."""
    for feed in self._feeds:
      feed.put(row)

  def close(self) -> None:
    """Closes the trackers once they were given all rows, or are too slow for that."""
    for feed in self._feeds:
      feed.put(None)
    for feed in self._feeds:
      feed.join()


class _Feed:
  """A tracker, its rows that wait, and the thread that hands them over."""

  def __init__(self, spec: str, tracker: Tracker, log: Callable[[str], None]) -> None:
    self._spec, self._tracker, self._log = spec, tracker, log
    self._rows: queue.Queue[dict[str, Any] | None] = queue.Queue(ROWS)
    self._warned = False
    self._thread = threading.Thread(target=self._work, name=f"tracker {spec}", daemon=True)
    self._thread.start()

  def put(self, row: dict[str, Any] | None) -> None:
    try:
      self._rows.put_nowait(row)
    except queue.Full:
      self._warn(f"is too slow: {ROWS:,} rows wait, and more are left out")

  def join(self) -> None:
    self._thread.join(CLOSING)
    if self._thread.is_alive():
      self._warn(f"did not close in {CLOSING:g} s; it is left behind")

  def _work(self) -> None:
    while (row := self._rows.get()) is not None:
      for name, value in row.items():
        if name != "step":
          self._try(self._tracker.log_scalar, name, value, step=row["step"])
    self._try(self._tracker.close)

  def _try(self, call: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    try:
      call(*args, **kwargs)
    except Exception as error:  # the user's program may do anything
      self._warn(f"failed ({reason_of(error)}); the run continues, further failures are not said")

  def _warn(self, what: str) -> None:
    if not self._warned:
      self._log(f"warning: tracker {self._spec} {what}")
    self._warned = True
