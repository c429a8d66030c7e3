"""In a notebook a run writes into one place of bounded size; elsewhere line after line."""

import signal
import sys
import threading
import types

import pytest

from hc_jax import notebook
from hc_jax.processes import signals
from hc_jax.runs.errors import Stopped
from hc_jax.train import console

ROW = {
  "perf/tokens_per_s": 1e4,
  "train/loss": 2.5,
  "train/grad_norm": 1,
  "train/learning_rate": 1e-3,
}
VAL = {"val/loss": 2.25, "val/ppl": 9.5, "val/bpb": 3.1}


class Cell:
  """A notebook's cell: what was displayed in it, and what that was replaced by."""

  def __init__(self):
    self.displayed, self.updates = 0, []

  def display(self, data, raw, display_id):
    assert raw and display_id
    self.displayed += 1
    self.update(data, raw)
    return self

  def update(self, data, raw):
    assert raw and list(data) == ["text/plain"]
    self.updates.append(data["text/plain"])


@pytest.fixture
def cell(monkeypatch):
  """Makes this program one of a notebook, whose clock stands still."""
  cell, shell = Cell(), types.SimpleNamespace(kernel="a kernel")
  ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
  ipython.get_ipython, display.display = lambda: shell, cell.display
  monkeypatch.setitem(sys.modules, "IPython", ipython)
  monkeypatch.setitem(sys.modules, "IPython.display", display)
  cell.now = 100.0
  monkeypatch.setattr(notebook.time, "monotonic", lambda: cell.now)
  return cell


def test_a_long_run_stays_in_one_place_of_a_few_lines(cell, capsys):
  lines = console.Console(100_000)
  for step in range(1, 10_001):
    lines.train(10 * step, [ROW | {"train/loss": step / 1e4}], eta=60.0)
    if step % 100 == 0:
      lines.eval(10 * step, [VAL], 1.0)
      lines.saved(10 * step, 1.0, 0.5)
    cell.now += 0.01
  assert cell.displayed == 1 and capsys.readouterr().out == ""
  assert max(text.count("\n") + 1 for text in cell.updates) == 22
  assert len(cell.updates) < 200 + 10_000 * 0.01 / 0.25 + 1
  *rows, progress = cell.updates[-1].splitlines()
  assert rows[0].startswith("step   1,000/100,000   1.0%  val")
  assert rows[6] == "... 180 lines; metrics.jsonl has every number"
  assert "checkpoint on disk" in rows[-1] and "val   loss 2.2500" in rows[-2]
  assert "100.0%" in progress and "loss 1.0000" in progress


def test_progress_is_shown_at_once_and_then_four_times_a_second(cell):
  block = notebook.block()
  for number in range(10):
    block.progress(f"{number}")
    cell.now += 0.1
  assert cell.updates == ["0", "3", "6", "9"]
  block.write("kept")
  assert cell.updates[-1] == "kept\n9"


def test_a_notebook_that_is_gone_costs_a_run_nothing(cell, monkeypatch):
  block = notebook.block()

  def gone(*_, **__):
    raise RuntimeError("the kernel's socket is closed")

  monkeypatch.setattr(sys.modules["IPython.display"], "display", gone)
  block.write("first")
  block.progress("second")
  assert cell.displayed == 0


@pytest.mark.parametrize("shell", [None, types.SimpleNamespace(colors="in a terminal")])
def test_elsewhere_every_line_is_printed(cell, monkeypatch, capsys, shell):
  monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
  assert notebook.block() is None
  lines = console.Console(100)
  lines.train(10, [ROW], eta=60.0)
  lines.eval(10, [VAL], 1.0)
  assert capsys.readouterr().out.count("\n") == 2 and cell.displayed == 0


def test_without_ipython_there_is_no_notebook():
  assert "IPython" not in sys.modules and notebook.block() is None


def test_an_interrupt_that_was_obeyed_is_one_line_and_not_a_traceback():
  assert Stopped("stopped by SIGINT")._render_traceback_() == ["stopped by SIGINT"]


@pytest.mark.parametrize("kind", [signals.Ending, signals.StopSignal])
def test_outside_of_the_main_thread_no_handler_is_set(kind):
  handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  found = []

  def work():
    with kind() as entered:
      found.append({number: signal.getsignal(number) for number in handlers})
      found.append(getattr(entered, "requested", False))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [handlers, False]
