"""What is kept of finished runs: a file for each arm, and `results.jsonl` of all of them."""

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
_LIMIT = 1 << 30  # bytes of a result; it has about 100 for each step that is logged
ARMS, RESULT, ROWS = "arms", "result.json", "results.jsonl"


@dataclasses.dataclass
class Curves:
  """What a run measured; each mapping holds lists of one length.

  Attributes:
    train: `step`, and `loss` in nats per token of that step's batch; rows as the trainer's.
    val: `step`, `loss`, perhaps `bpb` (bits per byte), and `seconds` of training until then,
      compilation, evaluation and checkpoints apart.
    diverged: the first step with a number that is not finite; None for a run that has none. The
      lists end before it.
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
    """The last validation loss; None of a run that diverged."""
    return None if self.diverged is not None or not self.val["loss"] else self.val["loss"][-1]


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished arm: its runs, one of each seed, and what they cost.

  Attributes:
    group: the arm and its learning rate.
    seeds: of the runs, in order.
    curves: of the runs, in order.
    costs: see `hc_jax.ablate.running.costs`.
    branch_init: SHA-256 of each run's initial parameters but the connections'.
    first_batch: SHA-256 of each run's first batch.
    fingerprint: of the text.
    provenance: where, when and by which code; see `hc_jax.ablate.running.provenance`.
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
  """Where an arm's files lie."""
  return os.path.join(out, ARMS, group.id)


def save(out: str, result: Result) -> None:
  """Writes the result of an arm, whole or not at all."""
  values = {"format": FORMAT, **dataclasses.asdict(result)}
  path = os.path.join(folder_of(out, result.group), RESULT)
  durable.write_atomically(path, json.dumps(values, allow_nan=False) + "\n", root=out)


def load(out: str, group: Group) -> Result | None:
  """The result of an arm; None if it is not finished.

  Raises:
    UserError: it cannot be read.
  """
  path = os.path.join(folder_of(out, group), RESULT)
  try:
    values = folders.read_json(out, os.path.relpath(path, out), _LIMIT)
    if values.pop("format") != FORMAT:
      raise ValueError("another format")
    check_result(values)
    if Group(**values["group"]) != group:
      raise ValueError(f"it is not of arm {group.id}")
    values["group"] = group
    values["curves"] = [Curves(**curves) for curves in values["curves"]]
    return Result(**values)
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"{path} cannot be read ({error}); remove it and the arm is trained again"
    ) from error


def load_all(out: str, sweep: Sweep) -> dict[Group, Result]:
  """The results of all arms that are finished, in the order of the sweep."""
  found = {group: load(out, group) for group in sweep.groups()}
  return {group: result for group, result in found.items() if result is not None}


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
  """A row for each run, as in `results.jsonl`."""
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
