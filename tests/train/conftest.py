"""Tiny runs, in this process on one device or in processes of their own, compiled once."""

import dataclasses
import functools
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from typing import Any

import jax
import pytest

from hc_jax.ablate.running import arm
from hc_jax.step.task import Task
from hc_jax.train import language, loop, program, start
from tests.train import line, tiny

# What has no part in the compiled steps.
_APART = {"num_steps", "log_every", "eval_every", "eval_batches", "checkpoint_every", "keep"}


@functools.cache
def _steps():
  """The compiled steps of this process, by all that they are made of."""
  return {}


def compile_steps_once(of, state, batch):
  """`compile_steps`, which traces the model again for every run, once for equal configs."""
  made_of = of.task.config.to_dict()
  made_of["train"] = {k: v for k, v in made_of["train"].items() if k not in _APART}
  key = json.dumps(made_of, sort_keys=True, default=repr), of.mesh, of.together and of.seeds
  if key not in _steps():
    _steps()[key] = program.compile_steps(of, state, batch)
  return _steps()[key]


@dataclasses.dataclass(frozen=True)
class OfConfig(Task):
  """A language model that knows its config."""

  config: Any = None


def language_model(config, *args, **kwargs):
  task = language.language_model(config, *args, **kwargs)
  return OfConfig(**vars(task), config=config)


@pytest.fixture
def one_device(monkeypatch):
  """One device for the run, whose text is the tiny one; equal steps are compiled once."""
  monkeypatch.setattr(loop, "compile_steps", compile_steps_once)
  for module in (start, arm):
    monkeypatch.setattr(module, "language_model", language_model)
  device = jax.devices()[:1]
  monkeypatch.setattr(jax, "devices", lambda *_: device)
  with tiny.tiny_text():
    yield device[0]


def one_device_environment():
  """Of a process with one device."""
  return os.environ | {"XLA_FLAGS": ""}


@pytest.fixture
def process():
  """Runs tiny.py in a process of its own: `process(workdir, *flags, send="SIGKILL:13")`."""

  def run(workdir, *flags, send=None):
    env = one_device_environment()
    if send:
      env["TINY_SIGNAL"] = send
    command = [sys.executable, tiny.__file__, str(workdir), *flags]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)

  return run


@pytest.fixture
def line_process():
  """Runs line.py in a process of its own: `line_process(workdir, "--signal=KILL:13")`.

  With `file_limit` no file of it grows past that many bytes, as on a disk that is full.
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
  """A port of this host that nobody listens at."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


@pytest.fixture
def processes():
  """Runs tiny.py in several processes: `processes(workdir, 2, *flags, send={1: "SIGTERM:4"})`.

  `missing` of them are not started; `own={1: flags}` are of one alone. Returns what ended, by
  number.
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
  """A finished run of the line, to be copied."""
  made = tmp_path_factory.mktemp("line") / "run"
  line.start(made, num_steps=10, checkpoint_every=5)
  return made


@pytest.fixture
def finished_line(line_template, tmp_path):
  """A run of ten steps of the line with checkpoints 5 and 10, of its own."""
  return shutil.copytree(line_template, tmp_path / "run")


@pytest.fixture(scope="session")
def template(tmp_path_factory):
  """Where a finished run of ten steps is kept, to be copied; made by the first test that asks."""
  return tmp_path_factory.mktemp("template") / "run"


@pytest.fixture
def finished(template, tmp_path):
  """A run of ten steps with checkpoints 5 and 10, of its own."""
  if not template.exists():
    tiny.start(template, train__num_steps=10, train__checkpoint_every=5)
  return shutil.copytree(template, tmp_path / "run")
