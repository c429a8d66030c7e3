"""What a run does between its first and its last step."""

import dataclasses

from hc_jax.fields import check_fields, field


def _steps(spec: str) -> str | None:
  """Returns what is wrong with the steps of a profile."""
  start, _, stop = spec.partition(":")
  if not spec or (start.isdecimal() and stop.isdecimal() and 1 <= int(start) < int(stop)):
    return None
  return "is not START:STOP; give two steps with 1 <= START < STOP, as in 10:13"


def _trackers(specs: tuple[str, ...]) -> str | None:
  """Returns what is wrong with the names of factories."""
  for spec in specs:
    module, _, factory = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if not module or not factory:
      return "is not a list of module:factory, as in my_package.my_file:my_tracker"
  return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Settings of a run: the keys of the group `train`. Each field says what it is.

  Raises:
    UserError: a value that cannot mean anything.
  """

  num_steps: int = field(100_000, "optimizer steps; may grow on resume", least=1)
  batch_size: int = field(256, "sequences per optimizer step, over all devices", least=1)
  accumulation: int = field(1, "micro-batches in one step; divides batch_size", least=1)
  loss_parts: int = field(
    0, "parts of the length whose logits exist at a time; 0: as few as fit well", least=0
  )
  eval_every: int = field(1000, "steps between evaluations; 0: only at the end", least=0)
  eval_batches: int = field(
    20, "batches of an evaluation: always the first ones, in order", least=1
  )
  checkpoint_every: int = field(
    1000, "steps between checkpoints; the last step always makes one", least=1
  )
  keep: int = field(2, "newest checkpoints kept, besides the best", least=1)
  log_every: int = field(
    10, "steps between rows of metrics.jsonl and lines of the console", least=1
  )
  telemetry_every: int = field(
    100, "steps between rows of hc/* (docs/analysis.md); 0: never", least=0
  )
  mirror: str = field(
    "", 'checkpoints are copied there, gs://bucket/run (docs/survive.md); "": none'
  )
  trackers: tuple[str, ...] = field(
    (), "module:factory of objects that are given the metrics too", kind=tuple, check=_trackers
  )
  profile: str = field("", '"START:STOP": steps to trace into <workdir>/profile', check=_steps)
  compilation_cache: str = field(".jax_cache", 'folder, from the workdir\'s parent; "": none')
  deterministic: bool = field(False, "GPU: sums in one order, for bitwise resume; slower")
  debug_nans: bool = field(False, "on a non-finite loss, name the first site that made it")

  def __post_init__(self) -> None:
    check_fields(self)
