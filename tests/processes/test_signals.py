"""Signals set a flag or end the process, whatever the main thread is doing."""

import gc
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from hc_jax.processes import signals

ROOT = pathlib.Path(signals.__file__).parents[2]
# Imports hc_jax.processes.signals without the rest of the package, which takes seconds.
PROGRAM = f"""
import ctypes, gc, os, signal, sys, types
package = types.ModuleType("hc_jax"); package.__path__ = [{str(ROOT / "hc_jax")!r}]
sys.modules["hc_jax"] = package
from hc_jax.processes import signals
def pause(): print("ready", flush=True); ctypes.CDLL(None).pause()  # in C, as a compilation
"""


def start(program):
  return subprocess.Popen(
    [sys.executable, "-c", PROGRAM + program],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def ended(child, seconds=20):
  out, err = child.communicate(timeout=seconds)
  return child.returncode, out, err


def said(number):
  return f"{number.name}: stopped; what was saved is kept\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_a_program_that_sits_in_c(number):
  child = start("with signals.Ending(): pause()")
  assert child.stdout.readline() == "ready\n"
  child.send_signal(number)
  assert ended(child) == (128 + number, "", said(number))


def test_a_signal_inside_a_callback_of_the_garbage_collector_is_not_lost():
  child = start("""
number = getattr(signal, "SIGTERM")
with signals.Ending():
  gc.callbacks.append(lambda *_: os.kill(os.getpid(), number))
  gc.collect()
  pause()
""")
  assert ended(child)[::2] == (143, said(signal.SIGTERM))


def test_while_train_py_still_imports_a_signal_ends_it():
  child = start(f"""
import runpy
class Import:  # stands for the import of JAX
  def find_spec(name, *_):
    if name == "argparse":
      gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
      gc.collect()
      pause()
sys.meta_path.insert(0, Import)
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
""")
  assert ended(child)[::2] == (143, said(signal.SIGTERM))


def test_of_two_signals_the_first_asks_and_the_second_ends_the_program():
  child = start("""
with signals.Ending(), signals.StopSignal() as stop:
  print("entered", flush=True)
  while not stop.requested: pass
  pause()
""")
  assert child.stdout.readline() == "entered\n"
  child.send_signal(signal.SIGINT)
  assert child.stdout.readline() == "ready\n"
  time.sleep(0.1)
  assert child.poll() is None
  child.send_signal(signal.SIGTERM)
  asked = "SIGINT: finishing the step and saving; once more ends at once\n"
  assert ended(child) == (143, "", asked + said(signal.SIGTERM))


@pytest.fixture
def as_in_a_kernel():
  """Restores Python's handler of SIGINT, which a shell disables for background processes."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("as_in_a_kernel")
def test_a_second_interrupt_in_a_notebook_is_a_keyboard_interrupt(capfd):
  with signals.StopSignal() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    deadline = time.monotonic() + 20
    while not stop.requested:
      assert time.monotonic() < deadline
      time.sleep(0.01)
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(1)
  assert (stop.name, signal.getsignal(signal.SIGINT)) == ("SIGINT", signal.default_int_handler)
  assert capfd.readouterr().err == (
    "SIGINT: finishing the step and saving; once more interrupts it\n"
  )


def test_the_first_interrupt_inside_a_callback_of_the_garbage_collector_sets_the_flag():
  def send(phase, _):
    if phase == "start":
      os.kill(os.getpid(), signal.SIGINT)

  with signals.StopSignal() as stop:
    gc.callbacks.append(send)
    gc.collect(0)
    gc.callbacks.remove(send)
    time.sleep(0.2)
    assert stop.requested


@pytest.mark.parametrize(
  "count", [pytest.param(2, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.exhaustive)]
)
def test_signals_at_random_moments_of_a_start(count, tmp_path):
  """Sends signals between the first line of train.py and the first step."""
  (tmp_path / "text.txt").write_text(pathlib.Path(__file__).read_text() * 30)
  program = f"import runpy; print('ready', flush=True); runpy.run_path({str(ROOT / 'train.py')!r}"
  command = [sys.executable, "-c", program + ", run_name='__main__')"]
  command += [f"--config={ROOT / 'configs' / 'quickstart.py'}", "--config.train.num_steps=100000"]
  small = {"model.d_model": 16, "model.num_layers": 2, "model.num_heads": 2, "train.batch_size": 8}
  command += [f"--config.{key}={value}" for key, value in small.items()]
  command += ["--config.data.name=text_files", f"--config.data.files=('{tmp_path}/text.txt',)"]
  draw, before, found = random.Random(0), 10.0, []
  for i in range(-1, count + 1):
    env = os.environ | {"HC_JAX_DATA": str(tmp_path / f"data{i}")}
    child = subprocess.Popen(
      [*command, f"--workdir={tmp_path / str(i)}"],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=env,
    )
    assert child.stdout.readline() == "ready\n"
    begun = time.monotonic()
    if i < 1:  # measures a start; it also compiles for all later ones
      while not child.stdout.readline().startswith("compiled"):
        assert child.poll() is None
      before = time.monotonic() - begun
      child.kill()
      child.communicate()
      continue
    # One signal of each kind in each fifteenth of a start. With only two signals, both come in the
    # first quarter, since a start may take half as long as the measured one.
    time.sleep(before * ((i - 1) // 2 + draw.random()) / max(count // 2, 4))
    number = (signal.SIGTERM, signal.SIGINT)[i % 2]
    child.send_signal(number)
    code, _, err = ended(child, 120)
    found.append((number.name, code, err))
    saved = f"{number.name}: finishing the step and saving; once more ends at once\nstopped by "
    assert (code == 128 + number and err == said(number)) or (
      code == 75 and err.startswith(saved) and err.count("\n") == 2
    ), found
  assert {code for _, code, _ in found} >= {130, 143}, found
