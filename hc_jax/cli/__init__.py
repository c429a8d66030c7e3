"""`hc-jax <command>`: thin; a file here holds a command's flags, what it calls lies elsewhere."""

import argparse
import os
import sys
from collections.abc import Sequence

from hc_jax.cli import ablate, analyze, evaluate, inspect, params, plan, sample, selftest
from hc_jax.errors import UserError
from hc_jax.user_modules import add_flag, import_modules

OVERRIDE = "--config."

# A command is a module with HELP, `flags(parser)` and `run(args)` or, where overrides of its config
# may follow, `run_config(args, overrides)`. Nothing heavy is imported before it runs.
COMMANDS = {
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
  parser = _parser()
  args, rest = parser.parse_known_args(list(sys.argv[1:] if argv is None else argv))
  command = COMMANDS[args.command]
  takes_overrides = hasattr(command, "run_config")
  unknown = [a for a in rest if not (takes_overrides and a.startswith(OVERRIDE))]
  if unknown:
    parser.error(f"{args.command} does not take {unknown[0]}; see hc-jax {args.command} --help")
  try:
    import_modules(args.modules)
    code = command.run_config(args, rest) if takes_overrides else command.run(args)
    return code or 0
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("\ninterrupted", file=sys.stderr)
    return 130
  except BrokenPipeError:  # `hc-jax ... | head` closed our output
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="hc-jax", description="Tools of hc_jax.")
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for name, command in COMMANDS.items():
    text = command.HELP
    subparser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    add_flag(subparser)
    command.flags(subparser)
  return parser
