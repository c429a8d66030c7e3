"""Prepared text: one flat memory-mapped token array per split, with document offsets."""

import dataclasses
import os

import numpy as np

from hc_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class TokenArray:
  """The tokens of one split.

  Attributes:
    tokens: [N] uint16 or uint32, memory-mapped; every document starts with bos.
    offsets: [D + 1] int64, document d is tokens[offsets[d]:offsets[d + 1]]; the last is N.
    num_bytes: bytes of text in the split.
    name: "train" or "val", for messages.
  """

  tokens: np.ndarray
  offsets: np.ndarray
  num_bytes: int
  name: str

  def __len__(self) -> int:
    return len(self.tokens)

  @property
  def num_documents(self) -> int:
    return len(self.offsets) - 1

  def num_windows(self, length: int) -> int:
    """Non-overlapping windows of `length` inputs, each with one more token as last target.

    Raises:
      UserError: the split is shorter than one window.
    """
    if length < 1:
      raise UserError(f"data.length={length}: a window holds at least one token")
    if len(self) < length + 1:
      share = "lower" if self.name == "train" else "raise"
      raise UserError(
        f"the {self.name} split holds {len(self)} tokens, and one window of data.length={length} "
        f"needs {length + 1}: give more text, shorten data.length, or {share} data.val_fraction"
      )
    return (len(self) - 1) // length


def token_dtype(vocab_size: int) -> np.dtype:
  """Of the tokens of a vocabulary: uint16 where it holds all ids, else uint32."""
  return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def open_array(folder: str, name: str, card: dict) -> TokenArray:
  """Opens what `hc_jax.data.prepare` wrote.

  Args:
    folder: the folder of the prepared text.
    name: the split.
    card: the split's entry in the card: dtype, num_tokens, num_documents, num_bytes.

  Raises:
    ValueError, OSError: a file is missing or not of the size that the card says.
  """
  tokens = _map(os.path.join(folder, f"{name}.tokens"), np.dtype(card["dtype"]), card["num_tokens"])
  offsets = _map(
    os.path.join(folder, f"{name}.offsets"), np.dtype(np.int64), card["num_documents"] + 1
  )
  return TokenArray(tokens, offsets, card["num_bytes"], name)


def _map(path: str, dtype: np.dtype, size: int) -> np.ndarray:
  found = os.path.getsize(path)
  if found != size * dtype.itemsize:
    raise ValueError(f"{path} has {found} bytes instead of {size * dtype.itemsize}")
  if size == 0:
    return np.zeros(0, dtype)  # an empty file cannot be mapped
  return np.asarray(np.memmap(path, dtype, mode="r", shape=(size,)))
