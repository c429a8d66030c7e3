"""Shuffling of documents on disk: their keys decide the order, and memory does not grow."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

# Number of groups that are sorted at a time; each takes 24 bytes, and 48 during the sort.
_SORTED_AT_ONCE = 1 << 20
_READ_AT_ONCE = 1 << 15
_ROW = 24
# The salt of TFDS's shuffler, which earlier versions used for local files; it keeps their order.
_SALT = hashlib.md5(b"train", usedforsecurity=False)


def groups(documents: Iterable[bytes], max_bytes: int) -> Iterator[list[bytes]]:
  """Yields lists of successive documents, each of at most `max_bytes` or of one document."""
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
  """Writes groups of documents to `folder`, which must exist.

  The file `documents` has, for each group, the number of documents, their sizes (uint32) and their
  bytes. The file `index` has three uint64 for each group: the two halves of its key's hash, and the
  start of the group in `documents`.

  Args:
    folder: folder that is later given to `read`.
    keyed: groups, each with a unique key that decides its place in the order.
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
  """Yields the documents of all groups, by the hash of the group's key; a group keeps its order."""
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
  """Yields the starts of groups by hash. Sorts one range of hashes at a time, to bound memory."""
  ranges = -(-os.path.getsize(path) // (_SORTED_AT_ONCE * _ROW))
  for i in range(ranges):
    first, last = i * 2**64 // ranges, (i + 1) * 2**64 // ranges - 1
    rows = np.concatenate([r[(r[:, 0] >= first) & (r[:, 0] <= last)] for r in _rows(path)])
    yield from rows[np.lexsort((rows[:, 1], rows[:, 0])), 2].tolist()


def _rows(path: str) -> Iterator[np.ndarray]:
  with open(path, "rb") as index:
    while block := index.read(_READ_AT_ONCE * _ROW):
      yield np.frombuffer(block, np.uint64).reshape(-1, 3)
