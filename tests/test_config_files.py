"""Tests of configs by name and path, in a checkout and installed, and of `hc-jax configs`."""

import contextlib
import io
import pathlib
import sys
import types

import pytest

import hc_jax as hc
from hc_jax import cli, config_files, config_keys
from hc_jax.configs import FOLDER

ROOT = pathlib.Path(__file__).parent.parent
DELTA = "from {package} import base\ndef get_config():\n  c = base.get_config()\n  c.seed = 3\n"
DELTA += "  return c\n"


def test_there_is_one_folder_of_configs():
  assert FOLDER == ROOT / "configs"
  names = config_files.names()
  assert len(names) == len(set(names)) == sum(1 for _ in (ROOT / "configs").rglob("*.py"))
  assert names[0] == "base" and {"quickstart", "variants/ghc", "ablations/quick"} <= set(names)


@pytest.mark.parametrize("name", ["quickstart", "variants/ghc", "ablations/quick"])
def test_a_name_a_path_of_the_checkout_and_a_file_are_found_from_any_folder(
  name, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  file = ROOT / "configs" / f"{name}.py"
  for given in (name, f"{name}.py", f"configs/{name}.py", f"./configs/{name}.py", str(file)):
    assert config_files.locate(given) == file
  (tmp_path / "quickstart").mkdir()  # such as a run's folder
  assert config_files.locate(name) == file


def test_a_file_of_ones_own_comes_before_ours_of_the_same_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pathlib.Path("quickstart.py").write_text(DELTA.format(package="hc_jax.configs"))
  assert config_files.locate("quickstart.py") == pathlib.Path("quickstart.py")
  assert config_files.execute("quickstart.py", "get_config").seed == 3
  assert config_files.execute("quickstart", "get_config").seed == 0


@pytest.mark.parametrize(
  ("given", "hint"),
  [
    ("quikstart", "did you mean 'quickstart'?"),
    ("ghc", "did you mean 'variants/ghc'?"),
    ("variants/gch", "did you mean 'variants/ghc'?"),
    ("configs/smal.py", "did you mean"),
    ("ablation/quick", "did you mean 'ablations/quick'?"),
  ],
)
@pytest.mark.parametrize("command", ["params", "plan", "ablate", "configs"])
def test_an_unknown_name_is_answered_with_the_nearest(given, hint, command, capsys):
  assert cli.main([command, given]) == 2
  err = capsys.readouterr().err
  assert hint in err and "`hc-jax configs` lists" in err and err.count("\n") == 1


@pytest.mark.parametrize("package", ["configs", "hc_jax.configs"])
@pytest.mark.parametrize("folder", ["", "configs", "configs/mine"])
def test_a_config_of_ones_own_imports_the_base_from_anywhere(package, folder, tmp_path):
  file = tmp_path / folder / "mine.py"
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(DELTA.format(package=package))
  assert config_files.execute(str(file), "get_config").seed == 3


def test_a_config_imports_its_neighbours_and_those_of_ours_that_they_lack(tmp_path):
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "half.py").write_text(DELTA.format(package="configs"))
  text = DELTA.replace("base", "half").replace("seed = 3", "train.num_steps = 7")
  (tmp_path / "configs" / "mine.py").write_text(text.format(package="configs"))
  config = config_files.execute(str(tmp_path / "configs" / "mine.py"), "get_config")
  assert (config.seed, config.train.num_steps) == (3, 7)


def test_a_package_called_configs_is_left_as_it_is(tmp_path, monkeypatch):
  theirs = types.ModuleType("configs")
  monkeypatch.setitem(sys.modules, "configs", theirs)
  (tmp_path / "mine.py").write_text(DELTA.format(package="configs"))
  before = list(sys.path)
  config_files.execute(str(tmp_path / "mine.py"), "get_config")
  assert sys.modules["configs"] is theirs and sys.path == before
  monkeypatch.delitem(sys.modules, "configs")
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "__init__.py").write_text("seed = 8")
  own = "from configs import seed\nfrom hc_jax.configs import base\n"
  own += "def get_config():\n  c = base.get_config()\n  c.seed = seed\n  return c\n"
  (tmp_path / "configs" / "mine.py").write_text(own)
  config = config_files.execute(str(tmp_path / "configs" / "mine.py"), "get_config")
  assert config.seed == 8


def test_modules_of_hc_jax_do_not_take_the_place_of_pythons(tmp_path, monkeypatch):
  """An installed config is in hc_jax/configs, next to hc_jax/copy and hc_jax/data."""
  package = tmp_path / "hc_jax"
  (package / "configs").mkdir(parents=True)
  (package / "copy.py").write_text("raise AssertionError('not the copy of Python')")
  (package / "configs" / "own.py").write_text("import copy\ndef get_config():\n  return copy\n")
  monkeypatch.setattr(config_files, "FOLDER", package / "configs")
  monkeypatch.delitem(sys.modules, "copy")
  assert hasattr(config_files.execute("own", "get_config"), "deepcopy")


def listed(*argv):
  with contextlib.redirect_stdout(io.StringIO()) as out:
    code = cli.main(["configs", *argv])
  return code, out.getvalue()


def test_every_config_is_listed_with_a_line_of_its_own():
  code, out = listed()
  lines = dict(line.split(maxsplit=1) for line in out.splitlines())
  assert code == 0 and list(lines) == config_files.names()
  assert lines["small"].startswith("About 125M parameters: 12 layers")
  assert all(line[0].isupper() or line.startswith(("mHC", "x0")) for line in lines.values())


def test_a_config_is_shown_and_copied_and_never_over_another(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  text = (ROOT / "configs" / "variants" / "ghc.py").read_text()
  assert listed("variants/ghc") == (0, text)
  assert listed("variants/ghc", "--copy")[0] == 0
  assert listed("variants/ghc", "--copy=mine.py")[0] == 0
  assert (tmp_path / "ghc.py").read_text() == (tmp_path / "mine.py").read_text() == text
  (tmp_path / "mine.py").write_text("mine")
  capsys.readouterr()
  assert cli.main(["configs", "variants/ghc", "--copy=mine.py"]) == 2
  assert "mine.py exists; give another name with --copy=FILE" in capsys.readouterr().err
  assert (tmp_path / "mine.py").read_text() == "mine"
  assert cli.main(["configs", "small", "--copy=nowhere/x.py"]) == 2
  assert "cannot be written: No such file or directory" in capsys.readouterr().err
  assert cli.main(["configs", "--copy", "small"]) == 2
  assert "write hc-jax configs small --copy" in capsys.readouterr().err


def test_every_key_is_listed_with_its_value_in_a_config_and_its_meaning():
  code, out = listed("quickstart", "--keys")
  lines = out.splitlines()
  keys = [line.split(" = ")[0] for line in lines if not line.startswith("    ")]
  assert code == 0 and keys == list(config_keys.keys())
  assert "model.d_model = 128" in lines and "train.num_steps = 200" in lines
  at = lines.index("model.norm = 'layernorm'")
  assert lines[at + 1].startswith("    ") and lines[at + 1].endswith("(layernorm | rmsnorm)")
  assert "model.d_model = 1024" in listed("--keys")[1].splitlines()


def test_a_copy_is_a_program_that_needs_hc_jax_alone(monkeypatch):
  """The copy runs as a program, without the command line, which would find `configs` for it."""
  monkeypatch.setitem(sys.modules, "configs", None)
  for name in config_files.names():
    names = {}
    exec((ROOT / "configs" / f"{name}.py").read_text(), names)
    assert names.keys() & {"get_config", "get_sweep"}
    if name == "variants/ghc":
      assert names["get_config"]().model.connection.name == "ghc"


def test_a_sweep_is_not_a_config_and_the_other_way_round():
  with pytest.raises(hc.UserError, match="it is a sweep: hc-jax ablate runs it"):
    config_files.execute("ablations/quick", "get_config")
  with pytest.raises(hc.UserError, match="takes a sweep, such as ablations/quick"):
    config_files.execute("quickstart", "get_sweep")
