"""`--import=my_package.my_file`: modules of the user's own, which register variants."""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from hc_jax.errors import UserError
from hc_jax.nearest import hint

FLAG = "--import"


def add_flag(parser: argparse.ArgumentParser) -> None:
  """Lets a command take `--import=a.b`, as often as wanted, as `modules`."""
  parser.add_argument(
    FLAG,
    action="append",
    default=[],
    dest="modules",
    metavar="MODULE",
    help="a module of yours that registers connections, imported first",
  )


def import_modules(names: Sequence[str]) -> None:
  """Imports modules that the caller of a command named; a run never names one.

  They are looked for in the working directory first.

  Raises:
    UserError: for a module that is not there, or that fails.
  """
  for name in names:
    _import(FLAG, name, name)


def find(flag: str, spec: str) -> Any:
  """Returns what `spec`, `module:name`, stands for; the module is imported as by `import_modules`.

  Args:
    flag: what gave it, a flag or key, for errors.
    spec: given by the caller; a run never names one.

  Raises:
    UserError: for a module that is not there or fails, or that has no such name.
  """
  module, _, name = spec.partition(":")
  if not module or not name:
    raise UserError(f"{flag}={spec} is not module:name, as in my_package.my_file:my_function")
  found = _import(flag, spec, module)
  for part in name.split("."):
    if not hasattr(found, part):
      raise UserError(f"{flag}={spec}: {module} has no {name}{hint(name, dir(found))}")
    found = getattr(found, part)
  return found


def _import(flag: str, given: str, name: str) -> Any:
  """Imports a module; says what is wrong with it in one line."""
  if not {"", os.getcwd()} & set(sys.path[:1]):
    sys.path.insert(0, os.getcwd())
  try:
    return importlib.import_module(name)
  except Exception as error:  # the user's program may do anything
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
      remedy = "my_package.my_file for my_package/my_file.py, without the ending"
      raise UserError(
        f"{flag}={given}: there is no module {error.name!r} in {os.getcwd()} nor among the "
        f"installed; write {remedy}"
      ) from error
    where = traceback.extract_tb(error.__traceback__)[-1]
    raise UserError(
      f"{flag}={given} failed at {where.filename}:{where.lineno}: {type(error).__name__}: {error}"
    ) from error
