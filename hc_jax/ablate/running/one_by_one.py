"""Training of an arm's seeds one after the other, each as an ordinary run in its own folder."""

import os
import statistics
from collections.abc import Sequence
from typing import Any

from hc_jax.ablate.running.curves import curves_of
from hc_jax.ablate.running.records import Curves
from hc_jax.runs.errors import NonFiniteError
from hc_jax.runs.metrics import read_metrics
from hc_jax.train.start import train_and_evaluate


def train_one_by_one(configs: Sequence[Any], folder: str) -> tuple[list[Curves], dict[str, Any]]:
  """Trains each run in `folder/seed-<seed>`, as `hc-jax train` does; skips finished runs.

  Args:
    configs: config of each run, one for each seed.
    folder: folder of the arm.

  Returns:
    The curves of each run, and a dict of the measured times.

  Raises:
    UserError, Stopped, StorageError, OutOfMemoryError: as in `train_and_evaluate`.
  """
  curves, steps = [], []
  for config in configs:
    workdir, diverged = os.path.join(folder, f"seed-{config.seed}"), None
    try:
      train_and_evaluate(config, workdir)
    except NonFiniteError as error:
      diverged = error.step
    rows = read_metrics(workdir)
    curves.append(curves_of(rows, diverged))
    steps += [row["perf/step_s"] for row in rows if "perf/step_s" in row]
  step = statistics.median(steps) if steps else None
  tokens = configs[0].train.batch_size * configs[0].data.length
  return curves, {
    "together": "one seed",
    "step_seconds": step,
    "step_cpu_seconds": None,
    "tokens_per_s": tokens / step if step else None,
    "training_seconds": sum(c.val["seconds"][-1] for c in curves if c.val["seconds"]),
    "compile_seconds": None,
    "memory_of": "compiled training step of one run, as planned by XLA, on each device",
  }
