"""Checks of the types in a sweep's files, which may come from someone else.

A report computes with these values, so that a wrong type must be refused when a file is read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

NUMBERS, TEXTS = (int, float), (str,)
_UNKNOWN = type(None)
COSTS = {
  "params": (int,),
  "connection_params": (int,),
  "training_seconds": NUMBERS,
  "flops_of": TEXTS,
  "memory_of": TEXTS,
  "together": TEXTS,
  "flops_per_token": (*NUMBERS, _UNKNOWN),
  "memory_bytes": (*NUMBERS, _UNKNOWN),
  "step_seconds": (*NUMBERS, _UNKNOWN),
  "step_cpu_seconds": (*NUMBERS, _UNKNOWN),
  "tokens_per_s": (*NUMBERS, _UNKNOWN),
}
PROVENANCE = {
  **dict.fromkeys(("started", "finished", "commit", "machine", "platform", "jax", "python"), TEXTS),
  "cores": (int,),
  "load": (*NUMBERS, _UNKNOWN),
}
SWEEP = {"title": TEXTS, "baseline": TEXTS, "one_by_one": (bool,), "arms": (dict,)}
SWEEP |= {"seeds": (list,), "learning_rates": (list,), "base": (dict,)}


def check_sweep(values: Mapping[str, Any]) -> None:
  """Checks the types in the JSON of a sweep.

  Raises:
    ValueError, KeyError, TypeError: if a field is missing or has another type.
  """
  check_fields("sweep", values, SWEEP)
  check_list("seeds", values["seeds"], (int,))
  check_list("learning_rates", values["learning_rates"], NUMBERS)
  check_list("arms", list(values["arms"].values()), (dict,))


def check_result(values: Mapping[str, Any]) -> None:
  """Checks the JSON of a finished arm: types, and one entry of each list for each seed.

  Raises:
    ValueError, KeyError, TypeError: if a field is missing or has another type or length.
  """
  check_fields("costs", values["costs"], COSTS)
  check_fields("provenance", values["provenance"], PROVENANCE)
  check_fields("result", values, {"fingerprint": TEXTS})
  count = check_list("seeds", values["seeds"], (int,))
  _check_runs(values, ("branch_init", "first_batch"), count)
  steps = [c["val"]["step"] for c in values["curves"] if c["diverged"] is None]
  if any(own != steps[0] or not own for own in steps):
    raise ValueError("the seeds were not evaluated at the same steps")


def check_progress(card: Mapping[str, Any], seeds: Sequence[int]) -> None:
  """Checks the card of an arm's checkpoint.

  Args:
    card: card as JSON values.
    seeds: seeds that the checkpoint must have.

  Raises:
    ValueError, KeyError, TypeError: if a field is missing or has another type, or the seeds differ.
  """
  check_fields("card", card, {"step": (int,), "seeds": (list,), "diverged": (list,)})
  check_list("diverged", card["diverged"], (int, _UNKNOWN))
  if card["seeds"] != list(seeds) or len(card["diverged"]) != len(seeds):
    raise ValueError(f"it has the seeds {card['seeds']}")


def _check_runs(values: Mapping[str, Any], digests: Sequence[str], count: int) -> None:
  """Checks curves and digests, which must have one entry for each of `count` seeds."""
  for key, kinds in (*((name, TEXTS) for name in digests), ("curves", (dict,))):
    if check_list(key, values[key], kinds) != count:
      raise ValueError(f"{key} does not have one entry for each seed")
  for curves in values["curves"]:
    check_fields("curves", curves, {"diverged": (int, _UNKNOWN)})
    for part, needed in (("train", ("step", "loss")), ("val", ("step", "loss", "seconds"))):
      lengths = {check_list(key, curves[part][key], NUMBERS) for key in {*needed, *curves[part]}}
      if len(lengths) != 1:
        raise ValueError(f"the lists of {part} differ in length")


def check_fields(name: str, values: Any, kinds: Mapping[str, tuple[type, ...]]) -> None:
  """Raises TypeError or KeyError unless a mapping has these fields with these types."""
  for key, wanted in kinds.items():
    if type(values[key]) not in wanted or (type(values[key]) is int and abs(values[key]) >> 63):
      raise TypeError(f"{name}.{key}={str(values[key])[:60]!r} has another type")


def check_list(name: str, values: Any, kinds: tuple[type, ...]) -> int:
  """Returns the length of a list; raises TypeError if the type of an entry is not in `kinds`."""
  if type(values) is not list:
    raise TypeError(f"{name} is not a list")
  check_fields(name, dict(enumerate(values)), dict.fromkeys(range(len(values)), kinds))
  return len(values)
