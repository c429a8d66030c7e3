"""`hc-jax selftest`: is the wiring right, on this machine, as installed."""

import argparse
import functools

HELP = (
  "Is the wiring right? Tries twenty known traps of hyper-connection code; exit 1 if one bites."
)


def flags(parser: argparse.ArgumentParser) -> None:
  del parser  # it has none


def run(args: argparse.Namespace) -> int:
  del args
  from hc_jax.testing.traps.selftest import selftest

  return selftest(log=functools.partial(print, flush=True))
