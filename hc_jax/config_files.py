"""Config files: Python programs, the user's own or those that come with hc_jax."""

import ast
import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from hc_jax.configs import FOLDER
from hc_jax.errors import UserError
from hc_jax.nearest import hint, nearest
from hc_jax.paper_names import config_of


def names() -> list[str]:
  """Returns the names of the configs of hc_jax, such as `variants/ghc`; those in folders last."""
  files = [file.relative_to(FOLDER).with_suffix("") for file in FOLDER.rglob("*.py")]
  return [file.as_posix() for file in sorted(files, key=lambda file: (len(file.parts), file))]


def summary(name: str) -> str:
  """Returns the first line of the docstring of a config of hc_jax."""
  tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
  return (ast.get_docstring(tree) or "").partition("\n")[0]


def locate(config: str) -> Path:
  """Returns the file of a config.

  Args:
    config: the name of a config of hc_jax, such as `quickstart` or `variants/ghc`, which wins over
      a file of exactly that name; or the path of a file. A path that does not exist is also tried
      as a name, without `configs/` and `.py`.

  Returns:
    The path, relative if `config` is relative.

  Raises:
    UserError: if there is neither a file nor a config of that name.
  """
  known, file = names(), Path(config).expanduser()
  name = _name(config)
  if config in known or (name in known and not file.is_file()):
    return FOLDER / f"{name}.py"
  if file.is_file():
    return file
  near = nearest(file.name, (other.name for other in file.parent.glob("*.py")), cutoff=0.8)
  if near:
    near = f"; did you mean {str(file.parent / near)!r}?"
  elif not file.is_absolute():
    near = _near(name)
  remedy = "`hc-jax configs` lists those of hc_jax"
  raise UserError(f"there is no config file {config}{near or ';'} {remedy}")


def locate_shipped(name: str) -> Path:
  """Returns the file of a config of hc_jax; raises UserError if there is none of that name."""
  if _name(name) in names():
    return FOLDER / f"{_name(name)}.py"
  near = _near(_name(name)) or ";"
  raise UserError(f"hc_jax has no config {name}{near} `hc-jax configs` lists them")


def _near(name: str) -> str:
  """Returns `; did you mean ...?` for a name that is nearly one of ours, or a paper's; or ""."""
  ours = config_of(name)
  return f"; did you mean {ours!r}?" if ours else hint(name, names(), "/")


def _name(config: str) -> str:
  return config.removeprefix("./").removeprefix("configs/").removesuffix(".py")


def execute(path: str, function: str) -> Any:
  """Returns what the function of that name in a config file returns.

  Args:
    path: as `locate` takes it.
    function: `get_config` or `get_sweep`.

  Raises:
    UserError: if the file or the function does not exist, or fails.
  """
  file = locate(path).resolve()
  with _importable(file):
    spec = importlib.util.spec_from_file_location("hc_jax_config_" + file.stem, file)
    if spec is None or spec.loader is None:
      raise UserError(f"config {path} is no Python file; give one that defines {function}()")
    module = importlib.util.module_from_spec(spec)
    with _failing(path, file):
      spec.loader.exec_module(module)
    if not hasattr(module, function):
      raise UserError(f"config {path} has no {function}(); {_remedy(module, function)}")
    with _failing(path, file):
      return getattr(module, function)()


@contextlib.contextmanager
def _failing(path: str, file: Path) -> Iterator[None]:
  """Reports any exception from the user's config as a UserError of one line."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if frame.filename == str(file)]
    where = (mine or frames)[-1]  # the line that is the user's to fix
    raise UserError(
      f"config {path} failed at {where.filename}:{where.lineno}: {type(error).__name__}: {error}"
    ) from error


def _remedy(module: Any, function: str) -> str:
  if function == "get_sweep":
    return "hc-jax ablate takes a sweep, such as ablations/quick (docs/ablations.md)"
  if hasattr(module, "get_sweep"):
    return "it is a sweep: hc-jax ablate runs it"
  return "`hc-jax configs quickstart` shows one"


@contextlib.contextmanager
def _importable(file: Path) -> Iterator[None]:
  """Lets a config import modules next to its folder, and run `from configs import base`."""
  if FOLDER.resolve() in file.parents:  # ours import from hc_jax alone
    yield
    return
  roots = list(map(str, file.parents[1:3]))  # of configs/X.py and configs/variants/X.py
  sys.path[:0] = roots
  try:
    with _package([Path(root, "configs") for root in roots]):
      yield
  finally:
    for root in roots:
      sys.path.remove(root)


@contextlib.contextmanager
def _package(folders: list[Path]) -> Iterator[None]:
  """Makes `configs` a package of `folders` and ours; another's package is left as it is."""
  if any((folder / "__init__.py").is_file() for folder in folders):
    yield
    return
  package = ModuleType("configs")
  package.__path__ = [str(folder) for folder in [*folders, FOLDER] if folder.is_dir()]
  before = _of_package(sys.modules)
  for name in before:
    del sys.modules[name]
  sys.modules["configs"] = package
  try:
    yield
  finally:
    for name in _of_package(sys.modules):
      del sys.modules[name]
    sys.modules.update(before)


def _of_package(modules: dict[str, ModuleType]) -> dict[str, ModuleType]:
  return {name: module for name, module in modules.items() if f"{name}.".startswith("configs.")}
