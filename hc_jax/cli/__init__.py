"""`hc-jax <command>`: thin; a file here holds a command's flags, what it calls lies elsewhere."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

from hc_jax import environment, output, terminal
from hc_jax.cli import ablate, analyze, configs, evaluate, inspect, params, plan, sample, selftest
from hc_jax.errors import UserError
from hc_jax.nearest import nearest
from hc_jax.processes import signals
from hc_jax.user_modules import add_flag, import_modules

OVERRIDE = "--config."

# A command is a module with HELP, `flags(parser)` and `run(args)` or, where overrides of its config
# may follow, `run_config(args, overrides)`. Nothing heavy is imported before it runs.
COMMANDS = {
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
  """Runs a command; returns its exit code (2: something for the user to mend)."""
  argv = list(sys.argv[1:] if argv is None else argv)
  parser, subparsers = _parsers()
  if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
    parser.error(
      f"there is no command {argv[0]}{_near(argv[0], COMMANDS)} hc-jax --help lists them"
    )
  args, rest = parser.parse_known_args(argv)
  command = COMMANDS[args.command]
  takes_overrides = hasattr(command, "run_config")
  unknown = [a for a in rest if not (takes_overrides and a.startswith(OVERRIDE))]
  if unknown:
    own = subparsers[args.command]
    near = _near(unknown[0].split("=")[0], re.findall(r"--[a-z][a-z-]*", own.format_usage()))
    own.error(f"{args.command} does not take {unknown[0]}{near} --help says what it takes")
  output.prepare()
  try:
    with terminal.escaping(), signals.Ending():  # a run may be a stranger's
      import_modules(args.modules)
      code = command.run_config(args, rest) if takes_overrides else command.run(args)
      sys.stdout.flush()
    return code or 0
  except BrokenPipeError:  # `hc-jax ... | head` closed our output
    return 0
  except Exception as error:
    return _failed(error)
  finally:
    output.finish()


def _failed(error: Exception) -> int:
  """Says in one line why a command failed; returns its exit code. A mistake of ours is raised."""
  code = 2 if isinstance(error, UserError) else getattr(error, "exit_code", None)
  if isinstance(error, OSError) and error.filename is None:  # a file of ours has a name
    error, code = f"the output cannot be written: {error.strerror}", 4
  if code is None:
    reason = environment.fault(error)
    if reason is None:
      raise error
    error, code = reason, 2
  output.write_line(f"error: {terminal.escape(str(error))}", sys.stderr)
  return code


def _near(word: str, known: Iterable[str]) -> str:
  near = nearest(word, known)
  return f"; did you mean {near}?" if near else ";"


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
  """Of hc-jax, and of each command."""
  parser = argparse.ArgumentParser(
    prog="hc-jax",
    description="Tools of hc_jax.",
    epilog="hc-jax COMMAND --help says what a command takes; README.md has examples.",
  )
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for name, command in COMMANDS.items():
    text = command.HELP
    subparser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    add_flag(subparser)
    command.flags(subparser)
  return parser, dict(commands.choices)
