"""Trains a language model, or resumes what the workdir holds: `hc-jax train`, from a checkout.

    python train.py --config=configs/quickstart.py --workdir=runs/x [--config.a.b=v ...]

`--help` has the other flags and the exit codes.
"""

import os
import signal
import sys


def _end(number: int, frame: object) -> None:
  """Ends the program with a line; for the moment before hc_jax is imported."""
  try:
    os.write(2, f"{signal.Signals(number).name}: stopped; what was saved is kept\n".encode())
  finally:  # also without a stderr
    os._exit(128 + number)


if __name__ == "__main__":  # first of all
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _end)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # also where it is not installed

from hc_jax import cli  # noqa: E402


def main(argv: list[str] | None = None) -> int:
  """Runs `hc-jax train`, whose config is here a flag, `--config=FILE`; returns its exit code."""
  words = sys.argv[1:] if argv is None else argv
  words = [word.removeprefix("--config=") for word in words if word != "--config"]
  return cli.main(["train", *words])


if __name__ == "__main__":
  sys.exit(main())
