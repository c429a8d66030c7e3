"""Tests that a fault of the machine is reported in one line, with exit code 2."""

import os
import subprocess
import sys

import jax
import pytest

import hc_jax
from hc_jax import cli, environment
from hc_jax.cli import params
from tests.processes.test_signals import ROOT

SAMPLE = "import sys; from hc_jax.cli import main; sys.exit(main(['selftest']))"


def absent():
  raise AssertionError  # like JAX for JAX_PLATFORMS=cuda without a GPU


def test_a_device_that_jax_cannot_start_is_one_line_of_a_command(monkeypatch, capsys):
  monkeypatch.setattr(params, "run_config", lambda *_: jax.devices())
  monkeypatch.setattr(jax, "devices", absent)
  assert cli.main(["params", "any"]) == 2
  err = capsys.readouterr().err
  assert err.count("\n") == 1 and err.startswith("error: JAX_PLATFORMS=")
  assert "cannot start: there is no such device; install JAX for this device, or unset" in err


def test_a_mistake_of_ours_stays_a_traceback(monkeypatch):
  def mistake(*_):
    raise AssertionError("of ours")

  monkeypatch.setattr(params, "run_config", mistake)
  with pytest.raises(AssertionError, match="of ours"):
    cli.main(["params", "any"])


def test_a_system_without_fcntl_is_told_what_works_there(monkeypatch, capsys):
  def windows(*_):
    raise ModuleNotFoundError("No module named 'fcntl'", name="fcntl")

  monkeypatch.setattr(params, "run_config", windows)
  assert cli.main(["params", "any"]) == 2
  err = capsys.readouterr().err
  assert err.startswith("error: training, data and ablations need") and "WSL2" in err
  assert "connections, models and ops work without it" in err


def test_the_first_words_of_jax_are_enough(monkeypatch):
  monkeypatch.setattr(
    jax, "devices", lambda: ["cpu"]
  )  # like JAX, which returns its devices the second time
  error = RuntimeError("Unable to initialize backend 'x': no x (set JAX_PLATFORMS='' to ...)")
  assert "cannot start: Unable to initialize backend 'x': no x; install" in str(
    environment.fault(error)
  )


def test_a_package_that_is_missing_is_named_with_how_to_have_it(monkeypatch, capsys):
  def missing(*_):
    raise ModuleNotFoundError("No module named 'orbax.checkpoint'", name="orbax.checkpoint")

  monkeypatch.setattr(params, "run_config", missing)
  assert cli.main(["params", "any"]) == 2
  assert "has no package orbax; activate the environment first" in capsys.readouterr().err
  monkeypatch.setattr(environment, "__file__", "/somewhere/site-packages/hc_jax/environment.py")
  assert cli.main(["params", "any"]) == 2
  err = capsys.readouterr().err
  assert f"has no package orbax; install it: {sys.executable} -m pip install orbax" in err


def test_jax_that_refuses_to_be_imported_is_one_line(monkeypatch, capsys):
  class Refusing:
    def find_spec(self, name, *_):
      if name == "jax":
        raise RuntimeError("jaxlib is version 0.1, too old")

  monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
  for name in [
    name for name in sys.modules if f"{name}.".startswith(("jax.", "hc_jax.processes."))
  ]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.delattr(hc_jax, "processes")
  for argv in (["params", "small"], ["train", "small", "--workdir=w"]):
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert err == "error: JAX cannot be imported: jaxlib is version 0.1, too old\n"


@pytest.mark.slow
@pytest.mark.parametrize("platforms", ["cuda", "tpu", "nonsense", "cpu,nonsense"])
@pytest.mark.parametrize("command", ["train.py", "hc-jax"])
def test_jax_that_cannot_start(command, platforms, tmp_path):
  arguments = ["-c", SAMPLE]
  if command == "train.py":
    (tmp_path / "text.txt").write_text("words " * 20_000)
    arguments = [str(ROOT / "train.py"), f"--config={ROOT / 'configs' / 'quickstart.py'}"]
    arguments += [f"--workdir={tmp_path / 'run'}", "--config.data.name=text_files"]
    arguments += [f"--config.data.files=('{tmp_path}/text.txt',)", f"--config.data.dir={tmp_path}"]
  env = os.environ | {"JAX_PLATFORMS": platforms, "PYTHONPATH": str(ROOT)}
  ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env)
  assert ended.returncode == 2, ended.stderr
  assert ended.stderr.startswith(f"error: JAX_PLATFORMS={platforms} cannot start: ")
  assert ended.stderr.count("\n") == 1
  assert not (tmp_path / "run").exists()  # a refused start leaves no folder
