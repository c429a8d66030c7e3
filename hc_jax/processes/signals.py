"""Handling of SIGTERM and SIGINT: they set a flag or end the process, but never raise an exception.

Python drops an exception that a signal handler raises inside a callback of the garbage collector.
JAX has such callbacks, so the signal would be lost. Python also runs handlers only when the main
thread returns from C++, which a compilation can delay for minutes. So a thread reads the signals.
"""

import os
import signal
import sys
import threading
from types import TracebackType
from typing import Any

from hc_jax import output

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def end(number: int, frame: object = None) -> None:
  """Ends the process now, with one line and exit code 128 + `number`.

  Cleans nothing up: the next start takes over locks and removes incomplete files.
  """
  del frame
  name = signal.Signals(number).name
  output.write_line(f"{name}: stopped; what was saved is kept", sys.stderr)
  os._exit(128 + number)


class _Watch:
  """Context manager that calls `received`, in a thread, for each SIGTERM and SIGINT.

  Entered outside the main thread, it does nothing, because Python cannot catch signals there.
  """

  def received(self, number: int) -> None:
    """Acts on a signal, as soon as it comes."""
    raise NotImplementedError

  def handler(self, number: int, frame: Any) -> None:
    """Acts on a signal in the main thread, once that thread is back in Python."""

  def __enter__(self) -> Any:
    self._active = threading.current_thread() is threading.main_thread()
    if not self._active:
      return self
    self._before = {number: signal.getsignal(number) for number in _SIGNALS}
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    for number in _SIGNALS:  # Python writes only signals that have a handler to the pipe
      signal.signal(number, self.handler)
    self._thread = threading.Thread(target=self._watch, daemon=True, name="signals")
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
    for number, handler in self._before.items():
      if handler is not None:  # None: not installed by Python, which cannot restore it
        signal.signal(number, handler)
    os.write(self._write, b"\0")
    self._thread.join()
    os.close(self._read)
    os.close(self._write)

  def _watch(self) -> None:
    while (byte := os.read(self._read, 1)) != b"\0":
      if byte[0] in _SIGNALS:
        self.received(byte[0])


class Ending(_Watch):
  """Context manager in which SIGTERM and SIGINT end the process; for programs, outside training."""

  def received(self, number: int) -> None:
    """Ends the process."""
    end(number)


class StopSignal(_Watch):
  """Context manager in which the first SIGTERM or SIGINT only sets `requested`.

  The second signal has the effect that it had outside the context. In a command, and by the
  system's default, it ends the process. In a notebook, SIGINT raises KeyboardInterrupt, and the
  kernel lives. A second signal cannot damage a checkpoint, which is renamed into place when whole.

  Attributes:
    name: name of the first signal; "" if none has come.
  """

  def __init__(self) -> None:
    self._event = threading.Event()
    self._read_so_far = self._handled = 0
    self.name = ""

  @property
  def requested(self) -> bool:
    """Whether a signal has come."""
    return self._event.is_set()

  def received(self, number: int) -> None:
    """Sets the flag; on the second signal, ends the process if that was the effect outside."""
    self._read_so_far += 1
    before = self._before[number]
    ends = before == signal.SIG_DFL or isinstance(getattr(before, "__self__", None), Ending)
    if self._event.is_set():
      if ends:
        end(number)
      return
    self.name = signal.Signals(number).name
    self._event.set()
    again = "ends at once" if ends else "interrupts it"
    output.write_line(f"{self.name}: finishing the step and saving; once more {again}", sys.stderr)

  def handler(self, number: int, frame: Any) -> None:
    """Calls the earlier handler on the second signal; Python's own raises KeyboardInterrupt."""
    self._handled += 1
    before = self._before[number]
    if max(self._handled, self._read_so_far) > 1 and callable(before):
      before(number, frame)
