"""SIGTERM and SIGINT: they set a flag or end the process, and nothing here raises an exception.

An exception that a handler raises is dropped when it comes inside a callback of the garbage
collector, and JAX has such callbacks: the signal would be lost. Python's handlers also wait until
the main thread comes back from C++, and a compilation can hold it for minutes. So a thread reads
the signals.
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

  Nothing is cleaned up: the next start takes over locks and removes what is half-made.
  """
  del frame
  name = signal.Signals(number).name
  output.write_line(f"{name}: stopped; what was saved is kept", sys.stderr)
  os._exit(128 + number)


class _Watch:
  """Hands each SIGTERM and SIGINT to `received`, in a thread, while it is entered.

  Outside the main thread (a notebook's worker, say) signals cannot be caught and stay as they are.
  """

  def received(self, number: int) -> None:
    """Acts on a signal, at once."""
    raise NotImplementedError

  def handler(self, number: int, frame: Any) -> None:
    """Acts on a signal in the main thread, once that is back in Python."""

  def __enter__(self) -> Any:
    self._active = threading.current_thread() is threading.main_thread()
    if not self._active:
      return self
    self._before = {number: signal.getsignal(number) for number in _SIGNALS}
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    for number in _SIGNALS:  # without a handler the system would not write to the pipe
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
      if handler is not None:  # None: one that Python did not install, and cannot put back
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
  """While it is entered, SIGTERM and SIGINT end the process: for programs, outside of the steps."""

  def received(self, number: int) -> None:
    """Ends the process."""
    end(number)


class StopSignal(_Watch):
  """While it is entered, the first SIGTERM or SIGINT only sets `requested`.

  The second one does what it did before: in a command, and by the system's default, it ends the
  process; in a notebook SIGINT raises KeyboardInterrupt, and the kernel lives. Checkpoints are
  renamed into place when whole, so a second signal harms none.

  Attributes:
    name: name of the signal that came; "" before.
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
    """Sets the flag; the second time ends the process, where it ended before."""
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
    """Does the second time what was done before; Python's own handler raises KeyboardInterrupt."""
    self._handled += 1
    before = self._before[number]
    if max(self._handled, self._read_so_far) > 1 and callable(before):
      before(number, frame)
