"""Trains a language model, or resumes what lies in the workdir.

    python train.py --config=configs/quickstart.py --workdir=runs/x [--config.a.b=v ...]

`--import=my_package.my_file` first imports a module that registers connections of your own.

Exit codes: 0 finished · 1 crash · 2 something to mend before training (config, data, workdir) ·
3 the loss became NaN or infinite · 4 the workdir could not be written any more · 5 out of device
memory · 75 stopped by SIGTERM or SIGINT after saving: run the same command to resume · 130, 143
stopped at once, by SIGINT or SIGTERM before there was anything to save, or by a second one.
"""

import argparse
import os
import signal
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, ROOT)  # also when the package is not installed


def parse(argv: list[str]) -> tuple[str, str, list[str], list[str]]:
  """The config's path, the workdir, the overrides `--config.a.b=v`, and modules to import."""
  usage = "python train.py --config=FILE --workdir=FOLDER [--import=MODULE] [--config.a.b=v ...]"
  parser = argparse.ArgumentParser(
    prog="train.py",
    usage=usage,
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--config", required=True, help="a file such as configs/quickstart.py")
  parser.add_argument("--workdir", required=True, help="a new folder, or that of the run to resume")
  parser.add_argument("--import", action="append", default=[], dest="modules", metavar="MODULE")
  flags, rest = parser.parse_known_args(argv)
  unknown = [flag for flag in rest if not flag.startswith("--config.")]
  if unknown:
    parser.error(f"unknown argument {unknown[0]}; overrides are written --config.group.key=value")
  beside = os.path.join(ROOT, flags.config)  # configs/X.py works from any folder
  config = flags.config if os.path.exists(flags.config) or not os.path.exists(beside) else beside
  return config, flags.workdir, rest, flags.modules


def _end(number: int, frame: object) -> None:
  """Ends the program in good order: the workdir's lock goes with it."""
  print(f"{signal.Signals(number).name}: stopped; what was saved is kept", file=sys.stderr)
  sys.exit(128 + number)


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  config, workdir, overrides, modules = parse(sys.argv[1:] if argv is None else argv)
  signal.signal(signal.SIGTERM, _end)  # outside of the steps; these have their own way
  try:
    from hc_jax import UserError, train
    from hc_jax.config import load_config
    from hc_jax.user_modules import import_modules
  except ModuleNotFoundError as error:
    if (error.name or "").startswith("hc_jax"):
      raise
    print(
      f"error: {sys.executable} has no package {error.name}; activate the environment first "
      "(source .venv/bin/activate; `make quickstart` makes it), or install: pip install -e .",
      file=sys.stderr,
    )
    return 2

  try:
    import_modules(modules)
    train.train_and_evaluate(load_config(config, overrides), workdir)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except train.Stopped as stopped:
    print(stopped, file=sys.stderr)
    return stopped.exit_code
  except (train.NonFiniteError, train.StorageError, train.OutOfMemoryError) as error:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code
  except KeyboardInterrupt:
    print("interrupted before training began; nothing was lost", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main())
