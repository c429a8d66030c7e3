"""Batches: the one of step s is a pure function of (seed, s)."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hc_jax.data.settings import check_settings
from hc_jax.data.tokens import TokenArray
from hc_jax.data.windows import Windows
from hc_jax.errors import UserError

if TYPE_CHECKING:
  import grain

Batch = dict[str, np.ndarray]


def train_batches(
  split: TokenArray,
  *,
  length: int,
  batch_size: int,
  seed: int,
  document_mask: bool = False,
  block: tuple[int, int] = (0, 1),
) -> "grain.MapDataset":
  """The endless training batches: `ds[step]` is the batch of that step, in any order of asking.

  Windows come in an order drawn anew for every epoch, each once per epoch; a batch may hold the
  end of one epoch and the start of the next.

  Args:
    split: where the windows are cut.
    length: L, tokens of a window's input.
    batch_size: B, windows per batch.
    seed: any int; two seeds give unrelated orders.
    document_mask: see `Windows`.
    block: (i, count): of every batch only the i-th of `count` blocks of rows, and nothing else is
      read; for several processes.

  Returns:
    A grain.MapDataset of {"inputs", "targets": int32 [B, L], "mask": float32 [B, L]} and with
    `document_mask` {"segment_ids": int32 [B, L]}; with `block`, of B / count rows.

  Raises:
    UserError: the split is shorter than one window.
  """
  import grain  # a second to import; a tokenizer alone can do without

  _check_batch_size(batch_size, block[1])
  windows = Windows(split, length, document_mask)
  # Endless by any measure; repeat(None) is as long as an index can be, and slicing overflows it.
  epochs = 2**62 // len(windows)
  source = grain.MapDataset.source(windows).seed(seed % 2**63)
  index, count = block
  return source.shuffle().repeat(epochs).batch(batch_size // count)[index::count]


def iterate(
  batches: "grain.MapDataset | Sequence", start: int = 0, workers: int = 1
) -> Iterator[Batch]:
  """Yields the batches of steps start, start + 1, ..., read ahead.

  Args:
    batches: of `train_batches`, or any sequence; `batches[s]` is asked for by several threads.
    start: the first step.
    workers: threads that read ahead; 0 reads when asked. The batches are the same for any number.
  """
  import grain

  check_settings(workers=workers)
  if not isinstance(batches, grain.MapDataset):
    batches = _Endless(batches)
  if not workers:
    step = start
    while True:
      yield batches[step]
      step += 1
  if isinstance(batches, _Endless):
    batches = grain.MapDataset.source(batches)
  options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
  yield from batches[start:].to_iter_dataset(options)


class _Endless:
  """A sequence as a source of grain, which asks for its length first."""

  def __init__(self, batches: Sequence) -> None:
    self._batches = batches

  def __len__(self) -> int:
    return 2**62

  def __getitem__(self, index: int) -> Any:
    try:
      return self._batches[index]
    except IndexError as error:
      raise UserError(
        f"there is no batch for step {index + 1}: Task.train gives fewer batches than the run has "
        "steps; make it endless, or train fewer steps"
      ) from error

  def __repr__(self) -> str:
    return type(self._batches).__name__


@dataclasses.dataclass(frozen=True, eq=False)
class EvalBatches(Sequence):
  """A fixed, ordered sequence of batches over the first `num_windows` windows.

  With `block` (i, count), of every batch only the i-th of `count` blocks of rows.
  """

  windows: Windows
  num_windows: int
  batch_size: int
  block: tuple[int, int] = (0, 1)

  def __len__(self) -> int:
    return -(-self.num_windows // self.batch_size)

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    if not -len(self) <= index < len(self):
      raise IndexError(f"batch {index} of {len(self)}")
    size = self.batch_size // self.block[1]
    start = (index % len(self)) * self.batch_size + self.block[0] * size
    rows = [self.windows[i] for i in range(start, min(start + size, self.num_windows))]
    missing = size - len(rows)
    # A block may lie wholly behind the end of the last batch: then it is rows of zeros.
    like = rows or [self.windows[0]]
    batch = {key: np.stack([row[key] for row in like])[: len(rows)] for key in like[0]}
    return {key: np.pad(value, ((0, missing), (0, 0))) for key, value in batch.items()}


def eval_batches(
  split: TokenArray,
  *,
  length: int,
  batch_size: int,
  num_batches: int | None = None,
  document_mask: bool = False,
  block: tuple[int, int] = (0, 1),
) -> EvalBatches:
  """Batches for evaluation: the split's first windows, in order, always the same.

  Args:
    split: where the windows are cut.
    length: L, tokens of a window's input.
    batch_size: B, windows per batch; the windows are those of any other B with the same product.
    num_batches: how many at most; fewer where the split ends before. None is the whole split.
    document_mask: see `Windows`.
    block: as for `train_batches`.

  Returns:
    A sequence of batches like those of `train_batches`; rows that fill up the last one are zero,
    their mask included.

  Raises:
    UserError: the split is shorter than one window.
  """
  _check_batch_size(batch_size, block[1])
  if num_batches is not None and num_batches < 1:
    raise UserError(f"`num_batches={num_batches}`: at least 1")
  windows = Windows(split, length, document_mask)
  wanted = len(windows) if num_batches is None else num_batches * batch_size
  return EvalBatches(windows, min(len(windows), wanted), batch_size, block)


def _check_batch_size(batch_size: int, blocks: int) -> None:
  if batch_size < 1:
    raise UserError(f"`batch_size={batch_size}`: at least 1")
  if batch_size % blocks:
    raise UserError(
      f"a batch of {batch_size} rows does not divide over {blocks} processes: {batch_size} / "
      f"{blocks} = {batch_size / blocks:g}; change `batch_size`"
    )
