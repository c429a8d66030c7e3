"""What a trainer trains: a task, in pure functions and batches."""

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
  """What a task makes of a batch, or of a part of one.

  Attributes:
    total: float32 scalar, the sum of the losses of what counts in the batch. An auxiliary loss is
      added as a mean would be: its value times the weight of the batch.
    metrics: float32 scalars that are summed like `total` and logged as `train/<name>`, divided by
      the weight.
    collections: new values of collections other than "params"; those left out stay as they are.
  """

  total: jax.Array
  metrics: Mapping[str, jax.Array] = flax.struct.field(default_factory=dict)
  collections: Mapping[str, PyTree] = flax.struct.field(default_factory=dict)


class Telemetry(NamedTuple):
  """A look at a model while it is trained.

  Attributes:
    measure: `(variables, batch) -> {name: float scalar}`, pure.
    batch: this process's rows of what is looked at, the same each time.
  """

  measure: Callable[[Variables, Batch], Mapping[str, jax.Array]]
  batch: Batch


@dataclasses.dataclass(frozen=True)
class Task:
  """A model, a loss and batches, in pure functions: what `hc_jax.train.train` trains.

  A batch is any tree of arrays whose first axis is rows. With several processes `train` and `val`
  give the rows of this one alone, see `hc_jax.sharding.process_block`.

  Attributes:
    init: `key -> variables`: "params" is trained, other collections are carried from step to step.
      Leaves may carry logical axis names (`nn.with_logical_partitioning`), by which they are split.
    loss: `(variables, batch, key) -> Loss`; called for each part of a batch.
    weight: `batch -> float32 scalar` above 0, known before the forward pass: the number of
      what counts in the whole batch. Loss and gradients are divided by it, so that they do not
      depend on the parts that a batch is taken in.
    train: `seed -> batches`; `batches[s]` makes step s + 1 and depends on nothing else. A thread
      asks for them ahead.
    evaluate: `(variables, batch) -> sums`, without a key.
    summarise: `sums -> {"val/...": value}` of the sums over all of `val`, added in float64.
    val: batches of an evaluation, fixed and in order; empty for none.
    best: name of the value of `summarise` by which the best checkpoint is kept: the lowest.
    name: goes on the card, and finds the task again when a run is opened.
    identity: facts that must not change when a run is resumed, such as a fingerprint of the data.
    about: a few words about batch and data, for the console.
    unit: what `units_per_step` counts, in the plural: "tokens", "images".
    units_per_step: units of a batch, over all processes; 0 to log no rate.
    telemetry: what is looked at every `telemetry_every` steps.
    locate: `(variables, batch, key) -> str | None`: names the first value of a forward pass that is
      not finite; for `debug_nans`.
    keep: called with the workdir of a new run: writes there what is needed to open it again.
    needs: lines that say what a step needs, for when the device's memory is too small.
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
    """Whether it has all that an evaluation needs: val, evaluate and summarise."""
    return bool(len(self.val)) and self.evaluate is not None and self.summarise is not None
