"""`hc-jax selftest`: is the wiring right, on this machine, as installed."""

import argparse
import functools
import os

HELP = (
  "Is the wiring right? Tries twenty known traps of hyper-connection code; exit 1 if one bites."
)


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--mutants",
    action="store_true",
    help="make mistakes on purpose instead, and say which test finds each",
  )


def run(args: argparse.Namespace) -> int:
  log = functools.partial(print, flush=True)
  if args.mutants:
    # One mistake shows on a mesh of eight devices alone. JAX reads this at its first computation.
    flag = "--xla_force_host_platform_device_count"
    if flag not in os.environ.get("XLA_FLAGS", ""):
      os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}=8".strip()
    from hc_jax.testing.mutation import mutation_run

    return mutation_run(log=log)
  from hc_jax.testing.selftest import selftest

  return selftest(log=log)
