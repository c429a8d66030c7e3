"""`hc-jax inspect RUN`: prints the contents of a run; exit code 1 if any file is damaged."""

import argparse

HELP = "Prints the contents of a run: checkpoints, card, parameters, newest metrics."


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("run", help="the workdir of a run")
  parser.add_argument("--step", type=int, default=None, help="step of the checkpoint (the newest)")


def run(args: argparse.Namespace) -> int:
  import jax

  jax.config.update("jax_platforms", "cpu")  # computes nothing, so leave accelerators to others
  from hc_jax.runs.inspect import report

  return 1 if report(args.run, args.step) else 0
