"""Tests of scripts/venv.sh with a stub of Python: its messages and its calls."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# The stub answers the questions of venv.sh, and records every call that changes something.
STUB = r"""#!/bin/sh
case "$1 $2" in
  "-c import sys"*) cat "@HERE@/version"; exit ;;
  "-c import jax"*) exec test ! -e "@HERE@/wrong-machine" ;;
  "-c import venv"*) exec test ! -e "@HERE@/no-venv" ;;
esac
[ "$3" = config ] && exec cat "@HERE@/pip-config"
echo "$@" >>"@HERE@/calls"
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip") exec test ! -e "@HERE@/no-network" ;;
esac
"""


class Setup:
  """A copy of the files that decide what is installed, with a stub of Python."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.project = folder / "project"
    self.python = folder / "stub-python"
    self.python.write_text(STUB.replace("@HERE@", str(folder)))
    self.python.chmod(0o755)
    (folder / "pip-config").touch()
    (self.project / "scripts").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "scripts/venv.sh"):
      shutil.copy(ROOT / name, self.project / name)
    shutil.copytree(ROOT / "constraints", self.project / "constraints")
    self.set_version("3.12")

  def set_version(self, version: str) -> None:
    (self.folder / "version").write_text(version + "\n")

  def touch(self, name: str) -> None:
    (self.folder / name).touch()

  def calls(self) -> list[str]:
    """Returns the calls since the last time."""
    file = self.folder / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines

  def run(self, *command: str, **env: str) -> subprocess.CompletedProcess:
    names = (
      "MAKEFLAGS",
      "MFLAGS",
      "MAKELEVEL",
      "VENV",
      "PYTHON",
      "INSTALLER",
      "PYTEST_ARGS",
      "MORE_PINS",
    )
    clean = {name: value for name, value in os.environ.items() if name not in names}
    clean["PATH"] = "/usr/bin:/bin"
    return subprocess.run(
      command, cwd=self.project, env=clean | env, capture_output=True, text=True, check=False
    )

  def venv(self, level: str = "run", **env: str) -> subprocess.CompletedProcess:
    return self.run("sh", "scripts/venv.sh", level, **({"PYTHON": str(self.python)} | env))


@pytest.fixture
def setup(tmp_path):
  return Setup(tmp_path)


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.10"])
@pytest.mark.parametrize(
  "target",
  ["quickstart", "test", "test-slow", "test-exhaustive", "parity", "goldens", "lint", "format"],
)
def test_a_python_that_is_too_old_is_said_before_anything_is_installed(setup, version, target):
  setup.set_version(version)
  result = setup.run("make", f"PYTHON={setup.python}", target)
  assert result.returncode != 0
  assert f"Python {version} ({setup.python}) is too old" in result.stderr
  assert "3.11, 3.12 or 3.13" in result.stderr
  assert setup.calls() == []
  assert not (setup.project / ".venv").exists()


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_each_accepted_python_installs_its_pins(setup, version):
  setup.set_version(version)
  result = setup.venv("test", INSTALLER="pip")
  assert result.returncode == 0, result.stderr
  pins = "constraints/py311.txt" if version == "3.11" else "constraints/py312.txt"
  made, tools, packages = setup.calls()
  assert made == "-m venv .venv"
  assert f"-c {pins}" in tools and f"-c {pins}" in packages
  assert packages.endswith("-e .[test]")


@pytest.mark.parametrize("version", ["3.14", "3.20", "4.0"])
def test_a_python_that_is_newer_than_the_tested_ones_is_tried_and_said_once(setup, version):
  setup.set_version(version)
  result = setup.venv("test", INSTALLER="pip")
  assert result.returncode == 0, result.stderr
  words = f"Python {version} is newer than the tested ones (3.11, 3.12 or 3.13): trying it"
  assert result.stdout.count(words) == 1
  assert "-c constraints/py312.txt" in setup.calls()[-1]
  assert setup.venv("test", INSTALLER="pip").stdout == ""


def test_live_peers_get_an_environment_of_their_own(setup):
  result = setup.run("make", f"PYTHON={setup.python}", "INSTALLER=pip", "parity")
  assert result.returncode == 0, result.stderr
  made, tools, packages, tests = setup.calls()
  assert made == "-m venv .venv-parity"
  assert not (setup.project / ".venv").exists()
  assert packages.endswith("-e .[test,parity]")
  assert tests == "-m pytest tests/parity"


def test_python_that_does_not_run(setup):
  result = setup.venv(PYTHON="/nowhere/python")
  assert result.returncode == 2
  assert "PYTHON=/nowhere/python does not run" in result.stderr


def test_missing_venv_module_names_the_package(setup):
  setup.touch("no-venv")
  result = setup.venv()
  assert result.returncode == 2
  assert "apt install python3.12-venv" in result.stderr
  assert setup.calls() == []
  assert not (setup.project / ".venv").exists()


def test_the_second_time_nothing_is_done(setup):
  assert setup.venv("run").returncode == 0
  assert setup.calls()
  result = setup.venv("run")
  assert (result.returncode, result.stdout, setup.calls()) == (0, "", [])


def test_test_contains_run_but_not_the_other_way(setup):
  setup.venv("run")
  setup.calls()
  setup.venv("test")
  assert [call for call in setup.calls() if call.endswith(".[test]")]
  setup.venv("run")
  assert setup.calls() == []


def test_docs_contains_run_and_builds_the_site_with_warnings_as_errors(setup):
  result = setup.run("make", f"PYTHON={setup.python}", "INSTALLER=pip", "docs")
  assert result.returncode == 0, result.stderr
  *_, packages, build = setup.calls()
  assert packages.endswith("-e .[docs]")
  assert build.startswith("-m sphinx ") and {"-W", "-n"} <= set(build.split())
  setup.venv("run")
  assert setup.calls() == []


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints/py312.txt"])
def test_a_changed_requirement_installs_again_into_the_same_environment(setup, file):
  setup.venv("run")
  setup.calls()
  with (setup.project / file).open("a") as out:
    out.write("# changed\n")
  setup.venv("run")
  calls = setup.calls()
  assert calls and not [call for call in calls if call.startswith("-m venv")]


def test_a_checkout_that_was_moved_installs_again(setup):
  setup.venv("run")
  setup.calls()
  setup.project = setup.project.rename(setup.folder / "moved here")
  assert setup.venv("run").returncode == 0
  assert setup.calls()


def test_another_python_makes_the_environment_anew(setup):
  setup.venv("run")
  (setup.project / ".venv" / "left-over").touch()
  setup.calls()
  setup.set_version("3.11")
  assert "making it anew" in setup.venv("run").stdout
  assert "-m venv .venv" in setup.calls()
  assert not (setup.project / ".venv" / "left-over").exists()


def test_without_a_python_named_the_one_of_the_environment_is_kept(setup):
  setup.venv("run")
  setup.calls()
  result = setup.venv("run", PYTHON="")
  assert (result.returncode, setup.calls()) == (0, [])


def test_an_interrupted_environment_is_made_anew(setup):
  setup.venv("run")
  setup.calls()
  (setup.project / ".venv" / ".made-by-hc_jax").write_text("incomplete\n")
  assert setup.venv("run").returncode == 0
  assert "-m venv .venv" in setup.calls()


def test_an_environment_of_the_users_own_is_left_alone(setup):
  (setup.project / ".venv").mkdir()
  (setup.project / ".venv" / "mine").touch()
  result = setup.venv("run")
  assert result.returncode == 2
  assert "was not made by this Makefile" in result.stderr
  assert (setup.project / ".venv" / "mine").exists()
  assert setup.calls() == []


def test_a_failed_install_says_so_and_is_tried_again(setup):
  setup.touch("no-network")
  result = setup.venv("run")
  assert result.returncode == 2
  assert "could not be installed" in result.stderr
  setup.calls()
  (setup.folder / "no-network").unlink()
  assert setup.venv("run").returncode == 0
  assert [call for call in setup.calls() if call.endswith("-e .")]


def test_packages_that_do_not_import_are_not_called_installed(setup):
  setup.touch("wrong-machine")
  result = setup.venv("run")
  assert result.returncode == 2
  assert "cannot be imported" in result.stderr
  (setup.folder / "wrong-machine").unlink()
  setup.calls()
  assert setup.venv("run").returncode == 0
  assert setup.calls()


def test_uv_that_fails_gives_way_to_pip(setup):
  result = setup.venv("run")  # the stub installs no uv
  assert result.returncode == 0
  assert "trying pip" in result.stdout
  assert setup.calls()[-1].endswith("-e .")


@pytest.mark.parametrize(
  ("config", "uses_uv"),
  [("global.index-url='x'", False), (":env:.no-index='1'", False), ("a.find-links='/x'", True)],
)
def test_a_mirror_in_pips_configuration_is_respected(setup, config, uses_uv):
  (setup.folder / "pip-config").write_text(config + "\n")
  setup.venv("run")
  assert any(" uv" in call for call in setup.calls()) == uses_uv


def test_more_pins_hold_for_either_installer(setup):
  for installer in ("pip", "uv"):  # the stub installs no uv, so write one that prints its arguments
    uv = setup.project / ".venv" / "bin" / "uv"
    if installer == "uv":
      uv.write_text(f'#!/bin/sh\necho "$@" >>"{setup.folder}/calls"\n')
      uv.chmod(0o755)
    with (setup.project / "pyproject.toml").open("a") as out:
      out.write("# changed\n")
    setup.calls()
    assert setup.venv("test", INSTALLER=installer, MORE_PINS="a file").returncode == 0
    assert "-c constraints/py312.txt -c a file " in setup.calls()[-1]


@pytest.mark.parametrize(
  ("config", "links"),
  [
    ("", ""),
    ("global.find-links='/wheels'", "/wheels"),
    (":env:.find-links='/a /b'\nglobal.find-links='/wheels'", "/a,/b"),
    ("global.cert='/c'\nglobal.find-links='\\n/a\\n/b'", "/a,/b"),
  ],
)
def test_uv_is_told_of_folders_of_wheels(setup, config, links):
  """A folder may hold a PyTorch without CUDA; if uv ignored it, it would download gigabytes."""
  setup.venv("run", INSTALLER="pip")
  (setup.folder / "pip-config").write_text(config + "\n")
  uv = setup.project / ".venv" / "bin" / "uv"
  uv.write_text(f'#!/bin/sh\necho "links=$UV_FIND_LINKS" >>"{setup.folder}/calls"\n')
  uv.chmod(0o755)
  setup.calls()
  assert setup.venv("test", UV_FIND_LINKS="").returncode == 0
  assert setup.calls()[-1] == f"links={links}"
