"""Windows of tokens, cut from the token array when they are read."""

import dataclasses

import numpy as np

from hc_jax.data.tokens import TokenArray


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
  """Windows of a split: window i has tokens i·length to (i + 1)·length, the last only as target.

  So every token except the first is a target once per epoch. A tail shorter than a window is not
  used, unless `tail` is set.

  Attributes:
    split: tokens to cut.
    length: L, number of inputs in a window.
    document_mask: whether to return `segment_ids`, and to mask targets that start a document.
    tail: whether the tail is a window too, padded with zeros that its mask excludes.

  Raises:
    UserError: the split is shorter than one window (with `tail`, shorter than two tokens).
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
    """Returns window `index` modulo the number of windows, since grain counts across epochs.

    Returns:
      `inputs` [L] int32, `targets` [L] int32 and `mask` [L] float32 (1 counts in the loss). With
      `document_mask` also `segment_ids` [L] int32: 1 for the window's first document, 2 for the
      next, and so on (0 is left to padding).
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
    """Returns the segments of tokens start to start + length, [L + 1] int32, counted from 1."""
    offsets = self.split.offsets
    first, last = np.searchsorted(offsets, (start, start + self.length), side="right")
    segments = np.zeros(self.length + 1, np.int32)
    segments[0] = 1
    segments[offsets[first:last] - start] = 1  # at the start of each further document
    return np.cumsum(segments, dtype=np.int32)
