"""Documents on disk, in an order that their keys decide, in memory that does not grow."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

# So many groups are sorted at a time: 24 bytes each, and as much again while they are sorted.
_SORTED_AT_ONCE = 1 << 20
_READ_AT_ONCE = 1 << 15
_ROW = 24
# The salt of TFDS's shuffler, through which local files once went: the order stays what it was.
_SALT = hashlib.md5(b"train", usedforsecurity=False)


def groups(documents: Iterable[bytes], max_bytes: int) -> Iterator[list[bytes]]:
  """Yields successive documents in lists of at most `max_bytes`, or of one document."""
  group, size = [], 0
  for document in documents:
    if group and size + len(document) > max_bytes:
      yield group
      group, size = [], 0
    group.append(document)
    size += len(document)
  if group:
    yield group


def write(folder: str, keyed: Iterable[tuple[str, list[bytes]]]) -> None:
  """Writes groups of documents below `folder`, which must be there.

  The file `documents` has each group's number of documents, their sizes (uint32) and their bytes;
  `index` has three uint64 for each: the two halves of its key's hash, and where it starts.

  Args:
    folder: where `read` looks.
    keyed: each group with a key of its own, which decides its place.
  """
  start = 0
  with open(_path(folder, "documents"), "wb") as texts, open(_path(folder, "index"), "wb") as index:
    for key, documents in keyed:
      md5 = _SALT.copy()
      md5.update(key.encode())
      index.write(np.array([*np.frombuffer(md5.digest(), ">u8"), start], np.uint64).tobytes())
      sizes = np.array([len(documents), *map(len, documents)], np.uint32)
      start += texts.write(sizes.tobytes()) + texts.write(b"".join(documents))


def read(folder: str) -> Iterator[bytes]:
  """Yields the documents: groups in the order of their keys' hashes, each as it was."""
  with open(_path(folder, "documents"), "rb") as texts:
    for start in _starts(_path(folder, "index")):
      texts.seek(start)
      (count,) = _numbers(texts, 1)
      for size in _numbers(texts, count).tolist():
        yield texts.read(size)


def _path(folder: str, name: str) -> str:
  return os.path.join(folder, name)


def _numbers(stream: BinaryIO, count: int) -> np.ndarray:
  return np.frombuffer(stream.read(4 * count), np.uint32)


def _starts(path: str) -> Iterator[int]:
  """Yields where groups start, by hash: the hashes are sorted one range of values at a time."""
  ranges = -(-os.path.getsize(path) // (_SORTED_AT_ONCE * _ROW))
  for i in range(ranges):
    first, last = i * 2**64 // ranges, (i + 1) * 2**64 // ranges - 1
    rows = np.concatenate([r[(r[:, 0] >= first) & (r[:, 0] <= last)] for r in _rows(path)])
    yield from rows[np.lexsort((rows[:, 1], rows[:, 0])), 2].tolist()


def _rows(path: str) -> Iterator[np.ndarray]:
  with open(path, "rb") as index:
    while block := index.read(_READ_AT_ONCE * _ROW):
      yield np.frombuffer(block, np.uint64).reshape(-1, 3)
