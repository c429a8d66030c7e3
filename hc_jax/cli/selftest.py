"""`hc-jax selftest`: checks the installed package on this machine."""

import argparse
import functools

HELP = "Checks this installation for twenty known mistakes of hyper-connection code."


def flags(parser: argparse.ArgumentParser) -> None:
  del parser  # because the command has no flags


def run(args: argparse.Namespace) -> int:
  del args
  from hc_jax.testing.traps.selftest import selftest

  return selftest(log=functools.partial(print, flush=True))
