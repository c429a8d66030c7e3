"""Prepared text: one flat memory-mapped token array per split, with document offsets."""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from hc_jax.data.settings import check_settings
from hc_jax.errors import UserError

# A split's files.
PARTS = ("tokens", "offsets")
_BLOCK = 1 << 20


class Damaged(Exception):
  """Prepared text is damaged; the message names the file and the reason."""


@dataclasses.dataclass(frozen=True, eq=False)
class TokenArray:
  """Tokens of one split.

  Attributes:
    tokens: memory-mapped ids, [N] uint16 or uint32; every document starts with bos.
    offsets: starts of documents and N, [D + 1] int64. Document d is
      tokens[offsets[d]:offsets[d + 1]].
    num_bytes: number of bytes of text in the split.
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
    """Returns the number of windows of `length` inputs; a window also needs the token after it.

    Raises:
      UserError: the split is shorter than one window.
    """
    check_settings(length=length)
    if len(self) < length + 1:
      share = "lower" if self.name == "train" else "raise"
      raise UserError(
        f"the {self.name} split holds {len(self)} tokens, and one window of `length={length}` "
        f"needs {length + 1}: give more text, shorten `length`, or {share} `val_fraction`"
      )
    return (len(self) - 1) // length


def token_dtype(vocab_size: int) -> np.dtype:
  """Returns the dtype of a vocabulary's tokens: uint16 if it can hold all ids, else uint32."""
  return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def open_array(folder: str, name: str, card: dict[str, Any], vocab_size: int) -> TokenArray:
  """Opens a split that `hc_jax.data.prepare` wrote, after checking its SHA-256 in the card.

  Args:
    folder: folder of the prepared text.
    name: name of the split.
    card: entry of the split in the card: dtype, num_tokens, num_documents, num_bytes, sha256.
    vocab_size: number of ids; every token must be smaller.

  Raises:
    Damaged: a file is missing or differs from the card; the message names it.
  """
  sizes = {"tokens": card["num_tokens"], "offsets": card["num_documents"] + 1}
  dtypes = {"tokens": np.dtype(card["dtype"]), "offsets": np.dtype(np.int64)}
  arrays = []
  for part in PARTS:
    path = os.path.join(folder, f"{name}.{part}")
    try:
      arrays.append(_map(path, dtypes[part], sizes[part]))
      largest = _check(path, dtypes[part], card["sha256"][part])
    except OSError as error:
      raise Damaged(f"{path} cannot be read: {error.strerror or error}") from error
    if part == "tokens" and largest >= vocab_size:
      raise Damaged(f"{path} holds the id {largest}, but the vocabulary ends at {vocab_size - 1}")
  return TokenArray(*arrays, card["num_bytes"], name)


def _check(path: str, dtype: np.dtype, expected: str) -> int:
  """Checks the SHA-256 of a file of integers; returns the largest integer, or -1 if it is empty."""
  sha256, largest = hashlib.sha256(), -1
  with open(path, "rb") as stream:
    while block := stream.read(_BLOCK):
      sha256.update(block)
      largest = max(largest, int(np.frombuffer(block, dtype).max()))
  if sha256.hexdigest() != expected:
    raise Damaged(f"{path} has changed since it was written: its SHA-256 differs")
  return largest


def _map(path: str, dtype: np.dtype, size: int) -> np.ndarray:
  found = os.path.getsize(path)
  if found != size * dtype.itemsize:
    raise Damaged(f"{path} has {found} bytes instead of {size * dtype.itemsize}")
  if size == 0:
    return np.zeros(0, dtype)  # an empty file cannot be mapped
  return np.asarray(np.memmap(path, dtype, mode="r", shape=(size,)))
