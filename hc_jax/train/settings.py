"""What a run of any task does between its first and its last step."""

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
    module, _, factory = spec.partition(":")
    if not module or not factory:
      return "is not a list of module:factory, as in my_package.my_file:my_tracker"
  return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Settings of a run of any task.

  Attributes:
    num_steps: optimizer steps; may grow on resume.
    accumulation: micro-batches in one step; divides the rows of a batch.
    eval_every: steps between evaluations; 0 evaluates only at the end.
    checkpoint_every: steps between checkpoints; the last step always makes one.
    keep: newest checkpoints kept, besides the best.
    log_every: steps between rows of metrics.jsonl and lines of the console.
    telemetry_every: steps between rows of hc/* (docs/analysis.md); 0 writes none.
    mirror: address that checkpoints are copied to, such as gs://bucket/run (docs/survive.md); ""
      copies none.
    trackers: objects that get the metrics too, each named as module:factory.
    profile: "START:STOP", the steps to trace into <workdir>/profile; "" traces none.
    compilation_cache: folder of compiled programs, from the workdir's parent; "" keeps none.
    deterministic: on GPU, sums in one order, for bitwise resume; slower.
    debug_nans: on a non-finite loss, names the first site that made it.

  Raises:
    UserError: a value that cannot mean anything.
  """

  num_steps: int = field(100_000, least=1)
  accumulation: int = field(1, least=1)
  eval_every: int = field(1000, least=0)
  checkpoint_every: int = field(1000, least=1)
  keep: int = field(2, least=1)
  log_every: int = field(10, least=1)
  telemetry_every: int = field(100, least=0)
  mirror: str = ""
  trackers: tuple[str, ...] = field((), check=_trackers)
  profile: str = field("", check=_steps)
  compilation_cache: str = ".jax_cache"
  deterministic: bool = False
  debug_nans: bool = False

  def __post_init__(self) -> None:
    check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageSettings(Settings):
  """Settings of a run of a language model: the keys of the group `train`.

  Attributes:
    batch_size: sequences per optimizer step, over all devices.
    loss_parts: parts of the length whose logits exist at a time; 0 is as few as fit well.
    eval_batches: batches of an evaluation: always the first ones, in order.

  Raises:
    UserError: a value that cannot mean anything.
  """

  batch_size: int = field(256, least=1)
  loss_parts: int = field(0, least=0)
  eval_batches: int = field(20, least=1)
