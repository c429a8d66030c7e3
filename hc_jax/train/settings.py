"""Settings of a run: steps, intervals, checkpoints, trackers. They apply to every task."""

import dataclasses

from hc_jax.fields import check_fields, field


def _steps(spec: str) -> str | None:
  """Returns the fault of a profile's START:STOP, or None."""
  start, _, stop = spec.partition(":")
  if not spec or (start.isdecimal() and stop.isdecimal() and 1 <= int(start) < int(stop)):
    return None
  return "is not START:STOP; give two steps with 1 <= START < STOP, as in 10:13"


def _trackers(specs: tuple[str, ...]) -> str | None:
  """Returns the fault of a list of tracker factories, or None."""
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
    accumulation: micro-batches in one step; must divide the rows of a batch.
    eval_every: steps between evaluations; 0 evaluates only at the end.
    checkpoint_every: steps between checkpoints; the last step always makes one.
    keep: number of newest checkpoints to keep, in addition to the best.
    log_every: steps between rows of metrics.jsonl and lines of the console.
    telemetry_every: steps between rows of hc/* (docs/analysis.md); 0 writes none.
    mirror: address that checkpoints are copied to, such as gs://bucket/run (docs/survive.md); ""
      copies none.
    trackers: objects that get the metrics too, each named as module:factory.
    profile: "START:STOP", the steps to trace into <workdir>/profile; "" traces none.
    compilation_cache: folder of compiled programs, relative to the workdir's parent; "" keeps none.
    deterministic: on a GPU, adds numbers in a fixed order, for bitwise resume; slower.
    debug_nans: after a non-finite loss, finds and names the first site that is not finite.

  Raises:
    UserError: a value is out of range or malformed.
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
    loss_parts: number of parts of the length for which logits are computed one after the other, to
      save memory; 0 chooses.
    eval_batches: batches in an evaluation, always the first ones of the validation set.

  Raises:
    UserError: a value is out of range or malformed.
  """

  batch_size: int = field(256, least=1)
  loss_parts: int = field(0, least=0)
  eval_batches: int = field(20, least=1)
