"""The flag `--import=my_package.my_file`, which imports the user's modules to register variants."""

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
  """Adds the repeatable flag `--import=a.b` to a command, as the argument `modules`."""
  parser.add_argument(
    FLAG,
    action="append",
    default=[],
    dest="modules",
    metavar="MODULE",
    help="a module of yours that registers connections, imported first",
  )


def import_modules(names: Sequence[str]) -> None:
  """Imports modules that the caller of a command named. Never pass names from a run's files.

  Searches the working directory first.

  Raises:
    UserError: a module does not exist, or its import fails.
  """
  for name in names:
    _import(FLAG, name, name)


def find(flag: str, spec: str) -> Any:
  """Imports a module and returns the object that `spec` names in it.

  Args:
    flag: flag or key that gave `spec`, for messages.
    spec: `module:name`, from the caller; never pass one from a run's files.

  Raises:
    UserError: `spec` is malformed, the module does not exist or fails, or it has no such name.
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
  """Imports a module; raises UserError with the reason in one line if that fails."""
  if not {"", os.getcwd()} & set(sys.path[:1]):
    sys.path.insert(0, os.getcwd())
  try:
    return importlib.import_module(name)
  except Exception as error:  # the user's program may do anything
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
      remedy = "my_package.my_file for my_package/my_file.py, without the ending"
      raise UserError(
        f"{flag}={given}: there is no module {error.name!r} in {os.getcwd()} or among the "
        f"installed packages; write {remedy}"
      ) from error
    where = traceback.extract_tb(error.__traceback__)[-1]
    raise UserError(
      f"{flag}={given} failed at {where.filename}:{where.lineno}: {type(error).__name__}: {error}"
    ) from error
