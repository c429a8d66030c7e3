"""A task for the trainer: pure functions and batches."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax

PyTree = Any
Variables = Mapping[str, PyTree]  # "params", and perhaps collections such as "batch_stats"
Batch = PyTree  # of arrays [rows, ...]
Sums = Mapping[str, jax.Array]  # float scalars, to be added over batches


@flax.struct.dataclass
class Loss:
  """Result of a task's loss on a batch, or on a part of a batch.

  Attributes:
    total: sum of the losses over the batch, float32 scalar. Because `total` is divided by the
      weight of the batch, an auxiliary loss that is a mean is added times that weight.
    metrics: float32 scalars. They are summed and divided like `total`, and logged as
      `train/<name>`.
    collections: new values of collections other than "params"; those left out do not change.
  """

  total: jax.Array
  metrics: Mapping[str, jax.Array] = flax.struct.field(default_factory=dict)
  collections: Mapping[str, PyTree] = flax.struct.field(default_factory=dict)


class Telemetry(NamedTuple):
  """Measurements of a model that the trainer takes every `train.telemetry_every` steps.

  Attributes:
    measure: pure function `(variables, batch) -> {name: float scalar}`, jitted by the trainer. It
      gets the rows of all processes. Names are logged as they are; values that are not finite are
      left out.
    batch: this process's rows of the batch to measure on, the same each time.
  """

  measure: Callable[[Variables, Batch], Mapping[str, jax.Array]]
  batch: Batch


@dataclasses.dataclass(frozen=True)
class Task:
  """A model, a loss and batches as pure functions, for `hc_jax.train.train`.

  A batch is any tree of arrays whose first axis is rows. With several processes, `train` and `val`
  return this process's rows alone, see `hc_jax.sharding.process_block`.

  Attributes:
    init: `key -> variables`. "params" is trained, other collections are carried from step to step.
      Leaves may carry logical axis names (`nn.with_logical_partitioning`) for their sharding.
    loss: `(variables, batch, key) -> Loss`; called for each part of a batch.
    weight: `batch -> float32 scalar` above 0: the number of items that count in the whole batch.
      Loss and gradients are divided by the weight, so that they do not depend on the number of
      parts. It must be known before the forward pass.
    train: `seed -> batches`; `batches[s]` is the batch of step s + 1 and depends on nothing else. A
      thread fetches batches ahead.
    evaluate: `(variables, batch) -> sums`, without a key.
    summarise: `sums -> {"val/...": value}`, from the sums over all of `val`, added in float64.
    val: batches of an evaluation, fixed and in order; empty for none. They need `evaluate` and
      `summarise`.
    best: name of the value of `summarise` whose lowest value marks the best checkpoint.
    name: name on the card, by which the task is found again when a run is opened; not empty.
    identity: facts that must not change when a run is resumed, such as a fingerprint of the data.
    about: a few words about batch and data, for the console.
    unit: name of the units of `units_per_step`, in the plural: "tokens", "images".
    units_per_step: number of units of a batch, over all processes; 0 to log no rate.
    telemetry: measurements to take every `telemetry_every` steps.
    locate: `(variables, batch, key) -> str | None`, which names the first value of a forward pass
      that is not finite, for `debug_nans`.
    keep: called with the workdir by one process, at every start. It writes whatever is needed to
      open the run again, if that is not there yet.
    needs: returns lines for out-of-memory errors: first the settings that help, then the memory
      that a step needs; at least one line.
  """

  init: Callable[[jax.Array], Variables]
  loss: Callable[[Variables, Batch, jax.Array], Loss]
  weight: Callable[[Batch], jax.Array]
  train: Callable[[int], Sequence[Batch]]
  evaluate: Callable[[Variables, Batch], Sums] | None = None
  summarise: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
  val: Sequence[Batch] = ()
  best: str = "val/loss"
  name: str = ""
  identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  about: str = ""
  unit: str = "rows"
  units_per_step: int = 0
  telemetry: Telemetry | None = None
  locate: Callable[[Variables, Batch, jax.Array], str | None] | None = None
  keep: Callable[[str], None] | None = None
  needs: Callable[[], Sequence[str]] | None = None

  @property
  def evaluates(self) -> bool:
    """Whether the task can be evaluated: it has val, evaluate and summarise."""
    return bool(len(self.val)) and self.evaluate is not None and self.summarise is not None
