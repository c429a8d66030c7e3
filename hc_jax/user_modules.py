"""`--import=my_package.my_file`: modules of the user's own, which register variants."""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from hc_jax.errors import UserError

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
  if names and not {"", os.getcwd()} & set(sys.path[:1]):
    sys.path.insert(0, os.getcwd())
  for name in names:
    try:
      importlib.import_module(name)
    except Exception as error:  # the user's program may do anything
      if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        remedy = "my_package.my_file for my_package/my_file.py, without the ending"
        raise UserError(
          f"{FLAG}={name}: there is no module {error.name!r} in {os.getcwd()} nor among the "
          f"installed; write {remedy}"
        ) from error
      where = traceback.extract_tb(error.__traceback__)[-1]
      raise UserError(
        f"{FLAG}={name} failed at {where.filename}:{where.lineno}: {type(error).__name__}: {error}"
      ) from error
