"""`hc-jax <command>`: each module here has the flags of a command, and calls code elsewhere."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

from hc_jax import __version__, output, terminal
from hc_jax.cli import (
  ablate,
  analyze,
  configs,
  evaluate,
  failures,
  inspect,
  params,
  plan,
  sample,
  selftest,
  train,
)
from hc_jax.errors import named
from hc_jax.nearest import nearest
from hc_jax.processes import signals
from hc_jax.user_modules import add_flag, import_modules

OVERRIDE = "--config."

# A command is a module with HELP, `flags(parser)` and `run(args)`. A command that takes overrides
# of a config has `run_config(args, overrides)` instead. A command with `main(args, overrides)`
# imports the user's modules and reports its failures itself. Heavy modules are imported only inside
# these functions, so that --help is quick.
COMMANDS = {
  "train": train,
  "configs": configs,
  "params": params,
  "plan": plan,
  "sample": sample,
  "analyze": analyze,
  "ablate": ablate,
  "eval": evaluate,
  "inspect": inspect,
  "selftest": selftest,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command and returns its exit code; 2 means a problem that the user can fix.

  Args:
    argv: words after `hc-jax`; those of the process by default.
  """
  args, overrides = parse(sys.argv[1:] if argv is None else argv)
  output.prepare()
  try:
    with terminal.escaping(), signals.Ending():  # because a run may come from someone else
      return _run(args, overrides)
  finally:
    output.finish()


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Parses the words of a command; returns its flags, and the overrides `--config.a.b=v`.

  The result has an attribute `words` too, a dict from each argument to its flag. A wrong word ends
  the program with exit code 2, and a message on stderr that names the nearest correct word.
  """
  argv = list(argv)
  parser, subparsers = _parsers()
  first = argv[0] if argv else "--help"
  if first.startswith("-"):
    _check_flags(parser, "hc-jax", argv[:1])
  elif first not in COMMANDS:
    parser.error(f"there is no command {first}{_near(first, COMMANDS)} hc-jax --help lists them")
  else:  # first, because argparse would report a misspelt flag as a missing one
    _check_flags(subparsers[first], first, argv[1:])
  args, rest = parser.parse_known_args(argv)
  if args.command == "configs" and rest and args.name is None:
    args.name = rest.pop(0)  # before Python 3.13, argparse accepts it only in front of flags
  overrides = [word for word in rest if word.startswith(OVERRIDE)]
  if unknown := [word for word in rest if word not in overrides]:
    _refuse(subparsers[args.command], args.command, unknown[0])
  args.words = {
    flag.removeprefix("--").replace("-", "_"): flag for flag in _flags_of(subparsers[args.command])
  }
  return args, overrides


def _check_flags(parser: argparse.ArgumentParser, command: str, argv: Sequence[str]) -> None:
  """Refuses the first unknown flag, and names the nearest known flag."""
  known = _flags_of(parser)
  for word in argv:
    if word == "--":
      return
    own = _takes_overrides(command) and word.startswith(OVERRIDE)
    if word.startswith("--") and word.partition("=")[0] not in known and not own:
      _refuse(parser, command, word)


def _refuse(parser: argparse.ArgumentParser, command: str, word: str) -> None:
  near = _near(word.partition("=")[0], _flags_of(parser))
  if "." in word.partition("=")[0] and _takes_overrides(command):
    near = "; overrides are written --config.group.key=value;"
  parser.error(f"{command} does not take {word}{near} --help lists its flags")


def _flags_of(parser: argparse.ArgumentParser) -> list[str]:
  return ["--help", *re.findall(r"--[a-z][a-z-]*", parser.format_usage())]


def _takes_overrides(command: str) -> bool:
  module = COMMANDS.get(command)
  return hasattr(module, "run_config") or hasattr(module, "main")


def _run(args: argparse.Namespace, overrides: list[str]) -> int:
  command = COMMANDS[args.command]
  if hasattr(command, "main"):
    return command.main(args, overrides)
  try:
    import_modules(args.modules)
    with named(args.words):
      if hasattr(command, "run_config"):
        code = command.run_config(args, overrides)
      else:
        code = command.run(args)
    sys.stdout.flush()
    return code or 0
  except BrokenPipeError:  # `hc-jax ... | head` closed our output
    return 0
  except Exception as error:
    if not isinstance(error, OSError) or error.filename is not None:  # stdout has no file name
      return failures.say(error)
    output.write_line(f"error: the output cannot be written: {error.strerror}", sys.stderr)
    return 4


def _near(word: str, known: Iterable[str]) -> str:
  near = nearest(word, known)
  return f"; did you mean {near}?" if near else ";"


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
  """Returns the parser of hc-jax, and that of each command by its name."""
  parser = argparse.ArgumentParser(
    prog="hc-jax",
    description="Hyper-connections for JAX: train models, look inside them and compare them.",
    epilog="hc-jax COMMAND --help lists the flags of a command; README.md has examples.",
    allow_abbrev=False,
  )
  parser.add_argument("--version", action="version", version=f"hc_jax {__version__}")
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for name, command in COMMANDS.items():
    subparser = commands.add_parser(
      name,
      help=command.HELP,
      description=getattr(command, "DETAILS", command.HELP),
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    add_flag(subparser)
    command.flags(subparser)
  return parser, dict(commands.choices)
