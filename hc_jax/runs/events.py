"""TensorBoard's event files, written where we stand: a full disk is an error here, not in a thread.

tensorboardX's SummaryWriter writes in a thread that dies of a full disk with a traceback, and the
next rows then wait for it for ever.
"""

import os
import secrets
import time
from typing import Any


class Events:
  """Appends scalars to an event file of its own."""

  def __init__(self, folder: str, purge: int | None = None) -> None:
    """Opens a new file.

    Args:
      folder: that holds the run's event files.
      purge: hides what earlier files say of this step and of those after it.

    Raises:
      OSError: it cannot be written.
    """
    from tensorboardX import event_file_writer, summary  # slow to import, and only a run needs it
    from tensorboardX.proto import event_pb2

    self._event, self._scalar = event_pb2.Event, summary.scalar
    # A name that nobody can have foretold, and put a link in its place.
    name = os.path.join(folder, "events")
    self._file = event_file_writer.EventsWriter(name, f".{secrets.token_hex(8)}")
    if purge is not None:
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._file.write_event(event_pb2.Event(step=purge, session_log=start))

  def write(self, row: dict[str, Any]) -> None:
    """Appends the numbers of a row `{"step": ..., name: value, ...}`.

    Raises:
      OSError: it cannot be written.
    """
    now = time.time()
    for name, value in row.items():
      if name != "step":
        values = self._scalar(name, value)
        self._file.write_event(self._event(wall_time=now, step=row["step"], summary=values))

  def flush(self) -> None:
    """Hands the events to the system."""
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
