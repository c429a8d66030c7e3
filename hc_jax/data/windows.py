"""Windows: cut from the token array when they are read."""

import dataclasses

import numpy as np

from hc_jax.data.tokens import TokenArray


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """The windows of a split: window i holds tokens i·length to (i + 1)·length, the last as target.

  So every token but the first is a target once per epoch (a tail shorter than a window is left,
  unless `tail` is set).

  Attributes:
    split: the tokens.
    length: L, inputs per window.
    document_mask: also give `segment_ids`, and mask the target that starts another document.
    tail: a last window that is not full is filled up with zeros, which its mask leaves out.

  Raises:
    UserError: the split is shorter than one window (with `tail`, than two tokens).
  """

  split: TokenArray
  length: int
  document_mask: bool = False
  tail: bool = False

  def __post_init__(self) -> None:
    self.split.num_windows(1 if self.tail else self.length)

  def __len__(self) -> int:
    if self.tail:
      return -(-self.split.num_windows(1) // self.length)
    return self.split.num_windows(self.length)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Window `index`, taken modulo the number of windows (grain counts on through epochs).

    Returns:
      inputs [L] int32, targets [L] int32, mask [L] float32 (1: counts in the loss), and with
      `document_mask` segment_ids [L] int32: 1 for the window's first document, 2 for the next, ...
      (0 is left to padding).
    """
    start = (index % len(self)) * self.length
    tokens = self.split.tokens[start : start + self.length + 1].astype(np.int32)
    there = len(tokens)  # fewer than length + 1 in a tail only
    tokens = np.pad(tokens, (0, self.length + 1 - there))
    window = {
      "inputs": tokens[:-1],
      "targets": tokens[1:],
      "mask": (np.arange(1, self.length + 1) < there).astype(np.float32),
    }
    if self.document_mask:
      segments = self._segments(start)
      segments[there:] = 0
      window["segment_ids"] = segments[:-1]
      window["mask"] *= segments[1:] == segments[:-1]
    return window

  def _segments(self, start: int) -> np.ndarray:
    """Segments of the tokens start .. start + length, [L + 1] int32, from 1."""
    offsets = self.split.offsets
    first, last = np.searchsorted(offsets, (start, start + self.length), side="right")
    segments = np.zeros(self.length + 1, np.int32)
    segments[0] = 1
    segments[offsets[first:last] - start] = 1  # where another document starts
    return np.cumsum(segments, dtype=np.int32)
