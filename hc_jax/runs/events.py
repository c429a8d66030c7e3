"""TensorBoard's event files, written in the calling thread, so that a full disk raises there.

tensorboardX's SummaryWriter writes in its own thread. On a full disk that thread dies with a
traceback, and the next rows wait for it forever.
"""

import os
import secrets
import time
from typing import Any


class Events:
  """Writer of scalars to a new event file."""

  def __init__(self, folder: str, purge: int | None = None) -> None:
    """Opens a new file.

    Args:
      folder: folder of the run's event files.
      purge: first step whose values in earlier files TensorBoard should ignore.

    Raises:
      OSError: the file cannot be written.
    """
    from tensorboardX import event_file_writer, summary  # slow to import, and only a run needs it
    from tensorboardX.proto import event_pb2

    self._event, self._scalar = event_pb2.Event, summary.scalar
    # A random name, so that nobody can have put a link there in advance.
    name = os.path.join(folder, "events")
    self._file = event_file_writer.EventsWriter(name, f".{secrets.token_hex(8)}")
    if purge is not None:
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._file.write_event(event_pb2.Event(step=purge, session_log=start))

  def write(self, row: dict[str, Any]) -> None:
    """Appends the numbers of a row `{"step": ..., name: value, ...}`.

    Raises:
      OSError: the file cannot be written.
    """
    now = time.time()
    for name, value in row.items():
      if name != "step":
        values = self._scalar(name, value)
        self._file.write_event(self._event(wall_time=now, step=row["step"], summary=values))

  def flush(self) -> None:
    """Flushes the events to the operating system."""
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
