"""SIGTERM and SIGINT: the first asks for an orderly end, the second ends at once."""

import os
import signal
import sys
import threading
from types import TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
  """While it is entered, the first SIGTERM or SIGINT only sets `requested`.

  The signals are read by a thread, since Python's own handlers wait until the main thread comes
  back from C++, and a compilation can hold it for minutes. The second signal ends the process on
  the spot with code 128 + signal; checkpoints are renamed into place when whole, so it harms none.
  Outside the main thread (a notebook's worker, say) signals cannot be caught and stay as they are.
  """

  def __init__(self) -> None:
    self._event = threading.Event()
    self.name = ""
    self._active = False

  @property
  def requested(self) -> bool:
    return self._event.is_set()

  def __enter__(self) -> "StopSignal":
    self._active = threading.current_thread() is threading.main_thread()
    if not self._active:
      return self
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    # A handler must exist for the system to write to the pipe; KeyboardInterrupt must not.
    self._old = {s: signal.signal(s, lambda *_: None) for s in _SIGNALS}
    self._thread = threading.Thread(target=self._watch, daemon=True, name="stop-signal")
    self._thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if not self._active:
      return
    signal.set_wakeup_fd(self._old_fd)
    for number, handler in self._old.items():
      signal.signal(number, handler)
    os.write(self._write, b"\0")
    self._thread.join()
    os.close(self._read)
    os.close(self._write)

  def _watch(self) -> None:
    while (byte := os.read(self._read, 1)) != b"\0":
      if byte[0] not in _SIGNALS:
        continue
      if self._event.is_set():
        os._exit(128 + byte[0])
      self.name = signal.Signals(byte[0]).name
      self._event.set()
      print(
        f"{self.name}: finishing the step and saving; once more ends at once",
        file=sys.stderr,
        flush=True,
      )
