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
  """Prepared text that is not what was written; the text says which file and why."""


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
    check_settings(length=length)
    if len(self) < length + 1:
      share = "lower" if self.name == "train" else "raise"
      raise UserError(
        f"the {self.name} split holds {len(self)} tokens, and one window of `length={length}` "
        f"needs {length + 1}: give more text, shorten `length`, or {share} `val_fraction`"
      )
    return (len(self) - 1) // length


def token_dtype(vocab_size: int) -> np.dtype:
  """Returns the type of a vocabulary's tokens: uint16 where it holds all ids, else uint32."""
  return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def open_array(folder: str, name: str, card: dict[str, Any], vocab_size: int) -> TokenArray:
  """Opens what `hc_jax.data.prepare` wrote, after comparing every byte with its card.

  Args:
    folder: the folder of the prepared text.
    name: the split.
    card: the split's entry in the card: dtype, num_tokens, num_documents, num_bytes, sha256.
    vocab_size: what ids must be less than.

  Raises:
    Damaged: a file is missing, or not the one that the card describes; the text names it.
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
      raise Damaged(f"{path} holds the id {largest}, and the vocabulary ends at {vocab_size - 1}")
  return TokenArray(*arrays, card["num_bytes"], name)


def _check(path: str, dtype: np.dtype, expected: str) -> int:
  """Compares a file with its SHA-256; returns the largest number in it, -1 if it is empty."""
  sha256, largest = hashlib.sha256(), -1
  with open(path, "rb") as stream:
    while block := stream.read(_BLOCK):
      sha256.update(block)
      largest = max(largest, int(np.frombuffer(block, dtype).max()))
  if sha256.hexdigest() != expected:
    raise Damaged(f"{path} has changed since it was written: its SHA-256 is another")
  return largest


def _map(path: str, dtype: np.dtype, size: int) -> np.ndarray:
  found = os.path.getsize(path)
  if found != size * dtype.itemsize:
    raise Damaged(f"{path} has {found} bytes instead of {size * dtype.itemsize}")
  if size == 0:
    return np.zeros(0, dtype)  # an empty file cannot be mapped
  return np.asarray(np.memmap(path, dtype, mode="r", shape=(size,)))
