"""Config files: Python programs of the user's own, of which one function is called."""

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hc_jax.errors import UserError
from hc_jax.nearest import nearest


def execute(path: str, function: str) -> Any:
  """What the function of that name in a config file returns.

  Raises:
    UserError: there is no such file, or no such function in it, or it fails.
  """
  file = Path(path)
  if not file.is_file():
    names = [p.name for p in file.parent.glob("*.py")]
    near = nearest(file.name, names, cutoff=0.8)
    hint = f"; did you mean {str(file.parent / near)!r}?" if near else ""
    raise UserError(f"there is no config file {path}{hint}")
  with _importable(file.resolve()):
    spec = importlib.util.spec_from_file_location("hc_jax_config_" + file.stem, file)
    if spec is None or spec.loader is None:
      raise UserError(f"config {path} is no Python file; give one that defines {function}()")
    module = importlib.util.module_from_spec(spec)
    with _failing(path):
      spec.loader.exec_module(module)
    if not hasattr(module, function):
      raise UserError(f"config {path} has no {function}(); {_remedy(module, function)}")
    with _failing(path):
      return getattr(module, function)()


@contextlib.contextmanager
def _failing(path: str) -> Iterator[None]:
  """The user's program may do anything: what it fails of is said in one line."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if frame.filename == str(Path(path).resolve())]
    where = (mine or frames)[-1]  # the line that is the user's to mend
    raise UserError(
      f"config {path} failed at {where.filename}:{where.lineno}: {type(error).__name__}: {error}"
    ) from error


def _remedy(module: Any, function: str) -> str:
  if function == "get_sweep":
    return "hc-jax ablate takes a sweep, such as configs/ablations/quick.py (docs/ablations.md)"
  if hasattr(module, "get_sweep"):
    return "it is a sweep: hc-jax ablate runs it"
  return "see configs/base.py"


@contextlib.contextmanager
def _importable(file: Path) -> Iterator[None]:
  """Lets a config say `from configs import base`, from wherever it is run."""
  above = file.parents[1:3]  # configs/X.py and configs/variants/X.py
  roots = [*map(str, above), str(Path(__file__).resolve().parents[1])]
  sys.path[:0] = roots
  try:
    yield
  finally:
    for root in roots:
      sys.path.remove(root)
