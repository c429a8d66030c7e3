"""`hc-jax plan CONFIG`: prints memory and FLOPs of a run on a mesh, without compiling it."""

import argparse
import re
from collections.abc import Sequence

from hc_jax.errors import UserError

HELP = "Prints the memory and FLOPs that a config needs on each device; compiles nothing."
_UNITS = {"": 1, "MB": 1e6, "GB": 1e9, "TB": 1e12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "config", help="a file, or a name of `hc-jax configs`; overrides --config.a.b=value may follow"
  )
  parser.add_argument(
    "--mesh",
    default=None,
    metavar="AXIS:SIZE,...",
    help="mesh, as data:64,fsdp:8 (the config's own)",
  )
  parser.add_argument(
    "--memory",
    default=None,
    metavar="SIZE",
    help="memory of a device, as 80GB; prints the largest batch that fits too",
  )


def run_config(args: argparse.Namespace, overrides: Sequence[str]) -> None:
  mesh = None if args.mesh is None else _mesh(args.mesh)
  memory = None if args.memory is None else _size(args.memory)

  from hc_jax.config import load_config
  from hc_jax.train import make_plan, plan_lines

  print("\n".join(plan_lines(make_plan(load_config(args.config, overrides), mesh, memory))))


def _mesh(text: str) -> dict[str, int]:
  sizes = {}
  for part in text.split(","):
    axis, _, size = part.partition(":")
    if not size.isdecimal() or axis in sizes:
      raise UserError(f"--mesh={text} must give each axis once, as AXIS:SIZE,...: data:64,fsdp:8")
    sizes[axis] = int(size)
  return sizes


def _size(text: str) -> float:
  found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?I?B)?", text.upper())
  if not found or (found[2] or "") not in _UNITS:
    raise UserError(f"--memory={text} must be a number and its unit, such as 80GB or 79.1GiB")
  return float(found[1]) * _UNITS[found[2] or ""]
