"""Trackers: objects of the user that receive every row of metrics.

A tracker has the two methods of a logging backend of metrax and Tunix: `log_scalar(event, value,
**kwargs)`, called with `step=`, and `close()`. The key `train.trackers` names factories as
`module:factory`, which are called with the workdir and the config. These names are resolved only
when a caller starts a run, never when a run is opened.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hc_jax.errors import UserError
from hc_jax.runs.errors import reason_of
from hc_jax.user_modules import find

ROWS = 1000  # most rows that wait for a slow tracker
CLOSING = 30.0  # seconds for a tracker to take the waiting rows and to close


class Tracker(Protocol):
  """Object that receives the metrics of a run."""

  def log_scalar(self, event: str, value: float, **kwargs: Any) -> None:
    """Records one number.

    Args:
      event: name of the number, such as `train/loss`.
      value: the number.
      **kwargs: `step`, the number of optimizer steps.
    """

  def close(self) -> None:
    """Closes the tracker; no call follows."""


Factory = Callable[[str, dict[str, Any]], Tracker]


def find_factories(specs: Sequence[str]) -> list[tuple[str, Factory]]:
  """Imports factories, given as `module:factory`; returns each name with its factory.

  Raises:
    UserError: a module or factory does not exist, or its import fails.
  """
  return [(spec, find("`trackers`", spec)) for spec in specs]


class Trackers:
  """Sender of rows to trackers, in one thread per tracker, so that none can stop or delay the run.

  The first failure of each tracker is logged. The tracker still receives later rows.
  """

  def __init__(
    self,
    factories: Sequence[tuple[str, Factory]],
    workdir: str,
    config: dict[str, Any],
    log: Callable[[str], None] = print,
  ) -> None:
    """Creates the trackers; logs and leaves out a tracker whose factory fails.

    Args:
      factories: names and factories, from `find_factories`.
      workdir: folder of the run. Its folder `trackers` is for files that a tracker needs to resume.
      config: config of the run, as JSON values.
      log: called with lines for the user.

    Raises:
      UserError: a factory raised UserError.
    """
    self._feeds = []
    for spec, factory in factories:
      try:
        tracker = factory(workdir, config)
      except UserError as error:
        raise UserError(f"`trackers={spec}`: {error}") from error
      except Exception as error:  # the user's program may do anything
        log(f"warning: tracker {spec} cannot be made ({reason_of(error)}); the run goes without it")
      else:
        self._feeds.append(_Feed(spec, tracker, log))

  def write(self, row: dict[str, Any]) -> None:
    """Queues a row `{"step": ..., name: value, ...}` for all trackers; returns at once."""
    for feed in self._feeds:
      feed.put(row)

  def close(self) -> None:
    """Closes the trackers after they took all rows, or gives up on one after `CLOSING` seconds."""
    for feed in self._feeds:
      feed.put(None)
    for feed in self._feeds:
      feed.join()


class _Feed:
  """Tracker with its waiting rows and the thread that sends them."""

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
      self._warn(f"failed ({reason_of(error)}); the run continues, later failures are not logged")

  def _warn(self, what: str) -> None:
    if not self._warned:
      self._log(f"warning: tracker {self._spec} {what}")
    self._warned = True
