"""`hc-jax train CONFIG`: trains a language model, or resumes the run in the workdir."""

import argparse
import dataclasses
from collections.abc import Sequence

from hc_jax.cli import failures
from hc_jax.errors import named
from hc_jax.user_modules import import_modules

HELP = "Trains a language model, or resumes the run in the workdir."
DETAILS = """Trains a language model, or resumes the run in the workdir.

  hc-jax train quickstart --workdir=runs/x [--config.a.b=v ...]

Several processes (docs/scale.md): under SLURM, Open MPI or on a TPU pod, start this command once
per process. Elsewhere, give each process `--coordinator=HOST:PORT --num-processes=N
--process-id=I`.

Exit codes: 0 finished · 1 crash · 2 fix before training: config, data or workdir · 3 the loss
became NaN or infinite · 4 a file of the run could not be read or written · 5 out of device memory ·
75 stopped by SIGTERM or SIGINT after saving; the same command resumes · 130, 143 stopped at once by
SIGINT or SIGTERM, before anything could be saved or by a second signal · 134 another process of
this run failed; see its output.
"""


def flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "config",
    help="a name of `hc-jax configs`, or a file; overrides --config.a.b=value may follow",
  )
  parser.add_argument(
    "--workdir", required=True, help="a new folder, or the folder of the run to resume"
  )
  parser.add_argument(
    "--fork", metavar="RUN[@STEP]", help="start a new workdir from the weights of that run"
  )
  parser.add_argument(
    "--fork-optimizer",
    action="store_true",
    help="with --fork, start from its optimizer state and step too",
  )
  several = parser.add_argument_group("several processes")
  several.add_argument(
    "--distributed", default="auto", help="auto: as JAX detects; off: one process (auto)"
  )
  several.add_argument(
    "--coordinator", metavar="HOST:PORT", help="address on which process 0 listens"
  )
  several.add_argument("--num-processes", type=int, metavar="N", help="number of processes")
  several.add_argument("--process-id", type=int, metavar="I", help="number of this process, from 0")
  several.add_argument(
    "--connect-timeout",
    type=float,
    default=300,
    metavar="S",
    help="seconds to wait for all processes to connect (300)",
  )
  several.add_argument(
    "--heartbeat-timeout",
    type=float,
    default=100,
    metavar="S",
    help="seconds of silence after which a process counts as dead (100)",
  )


def main(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  try:
    from hc_jax.processes import cluster
  except Exception as error:  # because JAX may be missing, or fail to import
    return failures.say(error)
  try:
    with named(args.words):
      code = _train(args, overrides)
  except Exception as error:
    code = failures.told(error)
    if code is None:
      cluster.leave_by(error)
      raise
  cluster.leave(code)
  return code


def _train(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  from hc_jax import train
  from hc_jax.config import load_config
  from hc_jax.processes import cluster
  from hc_jax.runs import quiet

  quiet.hide_aftermath()
  names = [field.name for field in dataclasses.fields(cluster.Cluster)]
  cluster.connect(cluster.Cluster(**{name: getattr(args, name) for name in names}))
  import_modules(args.modules)  # after connecting, because they may use JAX's devices
  config = load_config(args.config, overrides)
  fork = train.parse_fork(args.fork, args.fork_optimizer)
  train.train_and_evaluate(config, args.workdir, fork)
  return 0
