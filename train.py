"""Trains a language model, or resumes what lies in the workdir.

    python train.py --config=configs/quickstart.py --workdir=runs/x [--config.a.b=v ...]

`--import=my_package.my_file` first imports a module that registers connections of your own.

Several processes (docs/scale.md): under SLURM, Open MPI or on a TPU pod start this command once per
process. Elsewhere give each `--coordinator=HOST:PORT --num-processes=N --process-id=I`.

Exit codes: 0 finished · 1 crash · 2 something to fix before training (config, data, workdir) ·
3 the loss became NaN or infinite · 4 a file of the run could not be read or written · 5 out of
device memory · 75 stopped by SIGTERM or SIGINT after saving: run the same command to resume ·
130, 143 stopped at once, by SIGINT or SIGTERM before there was anything to save, or by a second
one · 134 another process of the run died or failed.
"""

import os
import signal
import sys


def _end(number: int, frame: object) -> None:
  """Ends the program with a line; for the seconds before JAX is imported."""
  try:
    os.write(2, f"{signal.Signals(number).name}: stopped; what was saved is kept\n".encode())
  finally:  # also without a stderr
    os._exit(128 + number)


if __name__ == "__main__":  # first of all: importing JAX takes seconds
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _end)

import argparse  # noqa: E402
import dataclasses  # noqa: E402

ROOT = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, ROOT)  # also when the package is not installed


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
  """The flags, with the config's path found, and the overrides `--config.a.b=v`."""
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
  parser.add_argument(
    "--fork", metavar="RUN[@STEP]", help="begin a new workdir with the weights of that run"
  )
  parser.add_argument(
    "--fork-optimizer", action="store_true", help="and with its optimizer state, at its step"
  )
  parser.add_argument("--import", action="append", default=[], dest="modules", metavar="MODULE")
  several = parser.add_argument_group("several processes")
  several.add_argument("--distributed", default="auto", help="auto: what JAX detects | off (auto)")
  several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
  several.add_argument("--num-processes", type=int, metavar="N")
  several.add_argument("--process-id", type=int, metavar="I", help="of this one, from 0")
  several.add_argument(
    "--connect-timeout", type=float, default=300, metavar="S", help="to wait for all (300)"
  )
  several.add_argument(
    "--heartbeat-timeout", type=float, default=100, metavar="S", help="silence of the dead (100)"
  )
  flags, rest = parser.parse_known_args(argv)
  unknown = [flag for flag in rest if not flag.startswith("--config.")]
  if unknown:
    parser.error(f"unknown argument {unknown[0]}; overrides are written --config.group.key=value")
  beside = os.path.join(ROOT, flags.config)  # configs/X.py works from any folder
  if not os.path.exists(flags.config) and os.path.exists(beside):
    flags.config = beside
  return flags, rest


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  flags, overrides = parse(sys.argv[1:] if argv is None else argv)
  try:
    import jax  # noqa: F401

    from hc_jax import environment, output
    from hc_jax.processes import cluster, signals
  except ModuleNotFoundError as error:
    return _cannot_import(error)
  except (RuntimeError, ValueError) as error:  # versions or variables that JAX refuses
    print(f"error: JAX cannot be imported: {error}", file=sys.stderr)
    return 2

  output.prepare()
  try:
    with signals.Ending():  # while it trains, a StopSignal takes its place
      try:
        code = _run(flags, overrides)
      except Exception as error:
        if (reason := environment.fault(error)) is None:
          cluster.leave_by(error)
          raise
        output.write_line(f"error: {reason}", sys.stderr)
        code = 2
      cluster.leave(code)
      return code
  finally:
    output.finish()


def _cannot_import(error: ModuleNotFoundError) -> int:
  """Says what is not installed; returns the exit code."""
  if (error.name or "").startswith("hc_jax"):
    raise error
  if error.name == "fcntl":
    from hc_jax import environment

    reason = environment.fault(error)
  else:
    reason = (
      f"{sys.executable} has no package {error.name}; activate the environment first "
      "(source .venv/bin/activate; `make quickstart` makes it), or install: pip install -e ."
    )
  print(f"error: {reason}", file=sys.stderr)
  return 2


def _run(flags: argparse.Namespace, overrides: list[str]) -> int:
  """Trains; returns the exit code."""
  from hc_jax import UserError, output, terminal, train
  from hc_jax.config import load_config
  from hc_jax.processes import cluster
  from hc_jax.runs import quiet
  from hc_jax.user_modules import import_modules

  quiet.hide_aftermath()
  names = [field.name for field in dataclasses.fields(cluster.Cluster)]
  try:
    cluster.connect(cluster.Cluster(**{name: getattr(flags, name) for name in names}))
    import_modules(flags.modules)
    config = load_config(flags.config, overrides)
    fork = train.parse_fork(flags.fork, flags.fork_optimizer)
    with terminal.escaping():  # the workdir may be a stranger's
      train.train_and_evaluate(config, flags.workdir, fork)
  except train.Stopped as stopped:
    output.write_line(str(stopped), sys.stderr)
    return stopped.exit_code
  except (UserError, train.NonFiniteError, train.StorageError, train.OutOfMemoryError) as error:
    output.write_line(f"error: {terminal.escape(str(error))}", sys.stderr)
    return getattr(error, "exit_code", 2)
  return 0


if __name__ == "__main__":
  sys.exit(main())
