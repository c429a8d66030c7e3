"""The curves of a run, from its rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from hc_jax.ablate.running.records import Curves


def curves_of(
  rows: Iterable[Mapping[str, Any]], diverged: int | None = None, best: str = "val/loss"
) -> Curves:
  """Returns the curves of a run; rows from step `diverged` on are left out.

  The seconds are those of the steps, of which a row has the mean since the row before.

  Args:
    rows: of metrics.jsonl.
    diverged: first step with a number that is not finite; None without one.
    best: name of the value that is compared: the curves call it `loss`.
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
