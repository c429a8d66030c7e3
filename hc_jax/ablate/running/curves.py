"""Curves of a run, from its rows in metrics.jsonl."""

from collections.abc import Iterable, Mapping
from typing import Any

from hc_jax.ablate.running.records import Curves


def curves_of(
  rows: Iterable[Mapping[str, Any]], diverged: int | None = None, best: str = "val/loss"
) -> Curves:
  """Returns the curves of a run, without rows from step `diverged` on.

  Seconds are summed from `perf/step_s`, the mean time of a step since the row before.

  Args:
    rows: rows of metrics.jsonl.
    diverged: first step with a number that is not finite; None if there is none.
    best: name of the validation value that arms are compared by; the curves call it `loss`.
  """
  curves, seconds, last = Curves(diverged=diverged), 0.0, 0
  for row in rows:
    step = row["step"]
    if diverged is not None and step >= diverged:
      break
    if "perf/step_s" in row:
      seconds, last = seconds + row["perf/step_s"] * (step - last), step
    if "train/loss" in row:
      curves.train["step"].append(step)
      curves.train["loss"].append(row["train/loss"])
    if best in row:
      curves.val["step"].append(step)
      curves.val["seconds"].append(round(seconds, 3))
      curves.val["loss"].append(row[best])
      if "val/bpb" in row:
        curves.val.setdefault("bpb", []).append(row["val/bpb"])
  return curves
