"""Batches for training and evaluation; a training batch is a pure function of (seed, step)."""

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
  """Returns an endless sequence of training batches with random access: `ds[s]` is batch s.

  Every epoch has each window once, in a new order. A batch may contain the end of one epoch and the
  start of the next.

  Args:
    split: tokens to cut into windows.
    length: L, number of input tokens in a window.
    batch_size: B, number of windows in a batch.
    seed: any int; different seeds give unrelated orders.
    document_mask: as in `Windows`.
    block: (i, count); batches have only the i-th of `count` equal blocks of rows, and no other rows
      are read. For several processes.

  Returns:
    A grain.MapDataset of {"inputs", "targets": int32 [B, L], "mask": float32 [B, L]}, and with
    `document_mask` also {"segment_ids": int32 [B, L]}. With `block`, it has B / count rows.

  Raises:
    UserError: the split is shorter than one window, or `batch_size` is not a positive multiple of
      the number of blocks.
  """
  import grain  # here, because it takes a second to import, and a tokenizer does not need it

  _check_batch_size(batch_size, block[1])
  windows = Windows(split, length, document_mask)
  # Practically endless. repeat(None) is as long as an index can be, and slicing it overflows.
  epochs = 2**62 // len(windows)
  source = grain.MapDataset.source(windows).seed(seed % 2**63)
  index, count = block
  return source.shuffle().repeat(epochs).batch(batch_size // count)[index::count]


def iterate(
  batches: "grain.MapDataset | Sequence", start: int = 0, workers: int = 1
) -> Iterator[Batch]:
  """Yields batches start, start + 1, ..., and reads ahead.

  Args:
    batches: batches from `train_batches`, or any sequence. Several threads index it.
    start: index of the first batch.
    workers: number of threads that read ahead; 0 reads on demand. It does not change the batches.

  Raises:
    UserError: a sequence ends before the steps do, or `workers` is out of range.
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
  """Source for grain of a sequence without a length, since grain asks for the length first."""

  def __init__(self, batches: Sequence) -> None:
    self._batches = batches

  def __len__(self) -> int:
    return 2**62

  def __getitem__(self, index: int) -> Any:
    try:
      return self._batches[index]
    except IndexError as error:
      raise UserError(
        f"step {index + 1} has no batch: Task.train gives fewer batches than the run has "
        "steps; make it endless, or train fewer steps"
      ) from error

  def __repr__(self) -> str:
    return type(self._batches).__name__


@dataclasses.dataclass(frozen=True, eq=False)
class EvalBatches(Sequence):
  """Fixed sequence of batches over the first `num_windows` windows, in order.

  With `block` (i, count), batches have only the i-th of `count` equal blocks of rows.
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
    # A block can be wholly past the end of the last batch; it then consists of rows of zeros.
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
  """Returns batches for evaluation: the first windows of the split, always the same.

  Args:
    split: tokens to cut into windows.
    length: L, number of input tokens in a window.
    batch_size: B, number of windows in a batch. Only `batch_size * num_batches` decides which
      windows are used.
    num_batches: largest number of batches; there are fewer if the split ends before. None takes the
      whole split.
    document_mask: as in `Windows`.
    block: as in `train_batches`.

  Returns:
    A sequence of batches with the arrays of `train_batches`. Rows that pad the last batch are zero,
    including their mask.

  Raises:
    UserError: the split is shorter than one window, or a number is out of range.
  """
  _check_batch_size(batch_size, block[1])
  if num_batches is not None and num_batches < 1:
    raise UserError(f"`num_batches={num_batches}` must be at least 1")
  windows = Windows(split, length, document_mask)
  wanted = len(windows) if num_batches is None else num_batches * batch_size
  return EvalBatches(windows, min(len(windows), wanted), batch_size, block)


def _check_batch_size(batch_size: int, blocks: int) -> None:
  if batch_size < 1:
    raise UserError(f"`batch_size={batch_size}` must be at least 1")
  if batch_size % blocks:
    raise UserError(
      f"a batch of {batch_size} rows cannot be divided over {blocks} processes: {batch_size} / "
      f"{blocks} = {batch_size / blocks:g}; change `batch_size`"
    )
