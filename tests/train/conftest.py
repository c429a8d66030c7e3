"""Fixtures of tiny runs, in this process on one device or in other processes."""

import functools
import os
import resource
import shutil
import socket
import subprocess
import sys

import jax
import pytest

from hc_jax.train import language, start
from tests.train import line, strangers, tiny


def give_devices(monkeypatch, devices):
  """Makes language models train on `devices` instead of on all devices."""
  monkeypatch.setattr(start, "make_mesh", functools.partial(language.make_mesh, devices=devices))


@pytest.fixture
def one_device(monkeypatch):
  """Makes a language model train on one device and on the tiny text."""
  give_devices(monkeypatch, jax.devices()[:1])
  with tiny.tiny_text():
    yield


def one_device_environment():
  """Returns the environment for a process with one device."""
  return os.environ | {"XLA_FLAGS": ""}


@pytest.fixture
def process():
  """Returns a function that runs tiny.py: `process(workdir, *flags, send="SIGKILL:13")`."""

  def run(workdir, *flags, send=None):
    env = one_device_environment()
    if send:
      env["TINY_SIGNAL"] = send
    command = [sys.executable, tiny.__file__, str(workdir), *flags]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)

  return run


@pytest.fixture
def line_process():
  """Returns a function that runs line.py: `line_process(workdir, "--signal=KILL:13")`.

  `file_limit` limits the size of each of its files in bytes, which imitates a full disk.
  """

  def run(workdir, *flags, file_limit=None):
    command = [sys.executable, line.__file__, str(workdir), *flags]
    limit = None
    if file_limit:
      limits = (file_limit, file_limit)
      limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
    return subprocess.run(
      command,
      env=one_device_environment(),
      capture_output=True,
      text=True,
      timeout=300,
      preexec_fn=limit,
    )

  return run


def free_port():
  """Returns a free port of this host."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


@pytest.fixture
def processes():
  """Returns a function that runs tiny.py in several processes.

  Call `processes(workdir, 2, *flags, send={1: "SIGTERM:4"})`. Processes whose numbers are in
  `missing` are not started; `own={1: flags}` adds flags for one process. It returns the completed
  processes, by number.
  """
  running = []

  def run(workdir, count, *flags, send=None, missing=(), own=None):
    env = one_device_environment()
    flags = (f"--coordinator=127.0.0.1:{free_port()}", f"--num-processes={count}", *flags)
    for i in sorted(set(range(count)) - set(missing)):
      signals = {"TINY_SIGNAL": send[i]} if i in (send or {}) else {}
      mine = (*flags, *(own or {}).get(i, ()), f"--process-id={i}")
      command = [sys.executable, tiny.__file__, str(workdir), *mine]
      running.append(
        subprocess.Popen(
          command, env=env | signals, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
      )
    done = []
    for child in running:
      out, err = child.communicate(timeout=300)
      done.append(subprocess.CompletedProcess(child.args, child.returncode, out, err))
    running.clear()
    return done

  yield run
  for child in running:
    child.kill()


@pytest.fixture(scope="session")
def line_template(tmp_path_factory):
  """Trains the line for ten steps, once for all tests that copy it."""
  made = tmp_path_factory.mktemp("line") / "run"
  line.start(made, num_steps=10, checkpoint_every=5)
  return made


@pytest.fixture
def finished_line(line_template, tmp_path):
  """Copies a run of the line with ten steps and checkpoints 5 and 10."""
  return shutil.copytree(line_template, tmp_path / "run")


@pytest.fixture(scope="session")
def template(tmp_path_factory):
  """Trains a language model for ten steps, once for all tests that copy it."""
  made = tmp_path_factory.mktemp("template") / "run"
  with pytest.MonkeyPatch.context() as patch, tiny.tiny_text():
    give_devices(patch, jax.devices()[:1])
    tiny.start(made, train__num_steps=10, train__checkpoint_every=5)
  return made


@pytest.fixture
def trained(template, tmp_path):
  """Copies a trained language model with checkpoints 5 and 10."""
  return shutil.copytree(template, tmp_path / "run")


@pytest.fixture(scope="session")
def finished_template(tmp_path_factory):
  """Writes the run that `finished` copies."""
  made = tmp_path_factory.mktemp("finished") / "run"
  config = tiny.config(train__num_steps=10, train__checkpoint_every=5)
  strangers.make(made, config, {5: None, 10: 1.0}, "tiny")
  return made


@pytest.fixture
def finished(finished_template, tmp_path):
  """Copies a run like `trained`, but with random numbers, which needs no compilation."""
  return shutil.copytree(finished_template, tmp_path / "run")
