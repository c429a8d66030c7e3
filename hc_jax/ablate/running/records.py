"""Records of finished runs: a file for each arm, and `results.jsonl` with a row for each run."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hc_jax import durable, folders
from hc_jax.ablate.running.record_types import check_result
from hc_jax.ablate.sweep import Group, Sweep
from hc_jax.errors import UserError

FORMAT = "hc_jax ablation 1"
_LIMIT = 1 << 30  # bytes of a result, which needs about 100 for each logged step
ARMS, RESULT, ROWS = "arms", "result.json", "results.jsonl"


@dataclasses.dataclass
class Curves:
  """Measurements of a run; the lists of each mapping have the same length.

  Attributes:
    train: lists `step` and `loss` (of that step's batch, nats per token), at the logged steps.
    val: lists `step`, `loss`, `seconds` (of training until then, without compilation, evaluation
      and checkpoints), and for text `bpb` (bits per byte).
    diverged: first step with a number that is not finite; the lists end before it. None if there
      is none.
  """

  train: dict[str, list[float]] = dataclasses.field(
    default_factory=lambda: {"step": [], "loss": []}
  )
  val: dict[str, list[float]] = dataclasses.field(
    default_factory=lambda: {"step": [], "loss": [], "seconds": []}
  )
  diverged: int | None = None

  @property
  def final(self) -> float | None:
    """Returns the last validation loss; None if the run diverged or was never evaluated."""
    return None if self.diverged is not None or not self.val["loss"] else self.val["loss"][-1]


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished arm: its runs, one for each seed, and their costs.

  Attributes:
    group: arm and learning rate.
    seeds: seeds of the runs, in order.
    curves: curves of the runs, in order.
    costs: costs by name; see `hc_jax.ablate.running.costs`.
    branch_init: SHA-256 of each run's initial parameters outside connections.
    first_batch: SHA-256 of each run's first batch.
    fingerprint: SHA-256 of the text.
    provenance: place, time and code; see `hc_jax.ablate.running.provenance`.
  """

  group: Group
  seeds: list[int]
  curves: list[Curves]
  costs: dict[str, Any]
  branch_init: list[str]
  first_batch: list[str]
  fingerprint: str
  provenance: dict[str, Any]


def folder_of(out: str, group: Group) -> str:
  """Returns the folder of an arm's files."""
  return os.path.join(out, ARMS, group.id)


def save(out: str, result: Result) -> None:
  """Writes the result of an arm atomically."""
  values = {"format": FORMAT, **dataclasses.asdict(result)}
  path = os.path.join(folder_of(out, result.group), RESULT)
  durable.write_atomically(path, json.dumps(values, allow_nan=False) + "\n", root=out)


def load(out: str, group: Group) -> Result | None:
  """Returns the result of an arm; None if the arm is not finished.

  Raises:
    UserError: if the result exists but cannot be read.
  """
  path = os.path.join(folder_of(out, group), RESULT)
  try:
    values = folders.read_json(out, os.path.relpath(path, out), _LIMIT)
    if values.pop("format") != FORMAT:
      raise ValueError("another format")
    check_result(values)
    if Group(**values["group"]) != group:
      raise ValueError(f"it belongs to another arm than {group.id}")
    values["group"] = group
    values["curves"] = [Curves(**curves) for curves in values["curves"]]
    return Result(**values)
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} cannot be read ({error}); remove it to train the arm again") from error


def load_all(out: str, sweep: Sweep) -> dict[Group, Result]:
  """Returns the results of all finished arms, in the order of the sweep."""
  found = {group: load(out, group) for group in sweep.groups()}
  return {group: result for group, result in found.items() if result is not None}


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
  """Returns the rows of `results.jsonl`, one for each run."""
  return [
    {
      "arm": result.group.arm,
      "learning_rate": result.group.learning_rate,
      "seed": seed,
      "status": "finished" if curves.diverged is None else "diverged",
      "diverged_at": curves.diverged,
      "val/loss": curves.final,
      **_costs(result.costs),
      "branch_init": branch_init,
      "train": curves.train,
      "val": curves.val,
    }
    for result in results
    for seed, curves, branch_init in zip(
      result.seeds, result.curves, result.branch_init, strict=True
    )
  ]


def _costs(costs: Mapping[str, Any]) -> dict[str, Any]:
  return {name: value for name, value in costs.items() if not isinstance(value, str)}


def write_rows(out: str, results: Sequence[Result]) -> None:
  """Writes `results.jsonl`."""
  text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows(results))
  durable.write_atomically(os.path.join(out, ROWS), text)
