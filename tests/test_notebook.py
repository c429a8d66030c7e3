"""Tests that a run in a notebook prints into one place of bounded size."""

import re
import signal
import sys
import threading
import types
from xml.etree import ElementTree

import optax
import pytest

from hc_jax import notebook, train
from hc_jax.ablate import compare_tasks
from hc_jax.errors import UserError
from hc_jax.processes import signals
from hc_jax.runs.errors import Stopped
from hc_jax.train import console
from tests.train import line

ROW = {
  "perf/tokens_per_s": 1e4,
  "train/loss": 2.5,
  "train/grad_norm": 1,
  "train/learning_rate": 1e-3,
}
VAL = {"val/loss": 2.25, "val/ppl": 9.5, "val/bpb": 3.1}


class Cell:
  """A notebook's cell, which records its displays and their updates."""

  def __init__(self):
    self.blocks, self.curves = [], []  # a list of contents for each display

  @property
  def updates(self):
    """Returns the texts of the single text display."""
    (updates,) = self.blocks
    return updates

  def display(self, data, raw, display_id):
    assert raw and display_id
    place = Place()
    (self.curves if "text/html" in data else self.blocks).append(place)
    place.update(data, raw)
    return place


class Place(list):
  """A display of a cell, which records its updates."""

  def update(self, data, raw):
    assert raw and list(data) in (["text/plain"], ["text/html", "text/plain"])
    self.append(next(iter(data.values())))


@pytest.fixture
def cell(monkeypatch):
  """Makes this process look like a notebook, with a clock that stands still."""
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
  assert len(cell.blocks) == len(cell.curves) == 1 and capsys.readouterr().out == ""
  assert max(text.count("\n") + 1 for text in cell.updates) == 22
  assert len(cell.updates) < 200 + 10_000 * 0.01 / 0.25 + 1
  *rows, progress = cell.updates[-1].splitlines()
  assert rows[0].startswith("step   1,000/100,000   1.0%  val")
  assert rows[6] == "... 180 lines; metrics.jsonl has every number"
  assert "checkpoint on disk" in rows[-1] and "val   loss 2.2500" in rows[-2]
  assert "100.0%" in progress and "loss 1.0000" in progress
  drawn = cell.curves[0]
  assert len(drawn) < 10_000 * 0.01 + 2 and max(map(len, drawn)) < 30_000


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
  assert cell.blocks == []


@pytest.mark.parametrize("shell", [None, types.SimpleNamespace(colors="in a terminal")])
def test_elsewhere_every_line_is_printed(cell, monkeypatch, capsys, shell):
  monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
  assert notebook.block() is None
  lines = console.Console(100)
  lines.train(10, [ROW], eta=60.0)
  lines.eval(10, [VAL], 1.0)
  assert capsys.readouterr().out.count("\n") == 2 and not cell.blocks and not cell.curves


def test_the_loss_is_drawn_while_it_moves(cell):
  lines = console.Console(100)
  for step in (10, 20, 30):
    lines.train(step, [ROW | {"train/loss": 5.0 - step / 10}], eta=60.0)
    lines.eval(step, [{"val/loss": 4.5 if step < 30 else float("nan")}], 1.0)
    cell.now += 2.0
  (drawn,) = cell.curves
  assert len(drawn) == 2
  (picture,) = ElementTree.fromstring(drawn[-1]).iter("polyline")
  points = [tuple(map(float, at.split(","))) for at in picture.attrib["points"].split()]
  assert len(points) == 3 and points == sorted(points)
  heights = [y for _, y in points]
  assert heights == sorted(heights)  # the loss falls, and pixels count from the top
  assert drawn[-1].count("<circle") == 2 and ">4.5<" in drawn[-1] and ">2<" in drawn[-1]


def test_the_curve_of_a_long_run_keeps_its_ends_and_is_small():
  curve = notebook.Curve()
  for step in range(1, 100_001):
    curve.add("train", step, 1 / step)
  drawn = curve.svg()
  assert "step 1<" in drawn and 100 < drawn.count(",") < 700
  assert int(re.search(r">([\d,]+)</text>\s*<text[^>]*>loss", drawn)[1].replace(",", "")) > 98_000
  assert len(curve.text()) < 70


def test_lines_of_several_runs_share_the_block_that_gathers_them(cell, capsys):
  with console.gathered():
    console.say("a sweep")
    for name in ("first", "second"):
      with console.gathered():
        lines = console.Console(100)
        console.say(f"{name} begins")
        lines.train(10, [ROW], eta=60.0)
        lines.say(f"{name} ends")
    console.say("a table\nof two lines")
  last = cell.updates[-1].splitlines()
  assert [line for line in last if "loss" not in line] == [
    *("a sweep", "first begins", "first ends", "second begins", "second ends"),
    *("a table", "of two lines"),
  ]
  console.say("outside")
  assert capsys.readouterr().out == "outside\n"


def test_lines_of_a_run_that_fails_are_shown_and_the_next_run_has_a_block_of_its_own(cell):
  for name in ("first", "second"):
    with pytest.raises(ValueError), console.gathered():
      console.say(name)
      raise ValueError
  assert cell.blocks == [["first"], ["second"]]


@pytest.mark.slow
def test_a_comparison_of_tasks_stays_in_one_block(cell, capsys, tmp_path):
  settings = train.Settings(num_steps=4, eval_every=2, log_every=1)
  tasks = {"one": line.task(), "two": line.task()}
  compare_tasks(tasks, optax.sgd(0.1), settings, str(tmp_path / "out"), seeds=(0, 1))
  assert capsys.readouterr().out == ""
  assert "one: seeds 0, 1" in cell.updates[-1] and "two: seeds 0, 1" in cell.updates[-1]


@pytest.mark.slow
def test_all_lines_of_a_run_are_in_the_block(cell, capsys, tmp_path):
  settings = train.Settings(num_steps=4, eval_every=2, log_every=1)
  train.train(line.task(), optax.sgd(0.1), settings, str(tmp_path / "a run"))
  assert capsys.readouterr().out == ""
  assert "begins at step 0" in cell.updates[-1] and "finished step 4" in cell.updates[-1]
  assert "<polyline" in cell.curves[0][-1]


def test_a_page_is_a_frame_of_its_own(tmp_path):
  file = tmp_path / "a page.html"
  content = '<style>p { color: "red" }</style><p id="x">A & B</p><script>1 < 2</script>'
  file.write_text(content, encoding="utf-8")
  shown = notebook.Page(file, height=300)
  frame = ElementTree.fromstring(shown._repr_html_())
  assert frame.tag == "iframe" and frame.attrib["sandbox"] == "allow-scripts"
  assert frame.attrib["srcdoc"].startswith(content) and frame.attrib["height"] == "300"
  assert "a page.html" in repr(shown) and "color" not in repr(shown)


def test_a_page_that_is_missing_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"analysis\.html' cannot be read.*hc-jax analyze"):
    notebook.Page(tmp_path / "analysis.html")


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
