"""The user's files: finding them, opening them, and checking that they hold text."""

import codecs
import concurrent.futures
import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from hc_jax.data import store
from hc_jax.errors import UserError

_BLOCK = 1 << 20
# Files queued for inspection at a time, because a queued file takes more memory than its result.
_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class TextFile:
  """File that may hold text.

  Attributes:
    path: path of the file, as opened.
    name: path relative to the user's folder (or the file's own name). The fingerprint contains it
      instead of `path`. So a corpus that was moved is not prepared again.
    named: whether the user gave the file by name; otherwise it was found in a folder.
  """

  path: str
  name: str
  named: bool = False

  @property
  def kind(self) -> str:
    """Kind of file: `jsonl`, `parquet` or `plain`, by the name without `.gz` or `.zst`."""
    stem = self.path.lower().removesuffix(f".{self.compression}")
    if stem.endswith((".jsonl", ".ndjson")):
      return "jsonl"
    return "parquet" if stem.endswith(".parquet") else "plain"

  @property
  def compression(self) -> str:
    """Compression: `gz`, `zst`, or "" for none."""
    end = self.path.lower().rpartition(".")[2]
    return end if end in ("gz", "zst") else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Inspected:
  """Facts about a file at the time when its content was read for the fingerprint."""

  file: TextFile
  size: int
  digest: str
  stat: tuple[int, ...]
  text_error: str  # why it is not UTF-8 text; "" if it is, or if only parsing can tell


def find_files(entries: Sequence[str]) -> list[TextFile]:
  """Returns the files that `entries` (files or folders) name, sorted and without duplicates.

  Searches folders recursively and follows links. Skips `__pycache__` and names that start with a
  dot.

  Raises:
    UserError: `entries` is empty, has an entry that is not a file or folder, or names no file.
  """
  if not entries:
    raise UserError(
      "`files` is empty; give the files or folders to read, as in `files=('my_text/',)`"
    )
  found: dict[str, TextFile] = {}
  for entry in entries:
    path = os.path.expanduser(entry)
    if os.path.isdir(path):
      for file in _walk(path):
        found.setdefault(os.path.realpath(file.path), file)
    elif os.path.isfile(path):
      file = TextFile(path, os.path.basename(path), named=True)
      found[os.path.realpath(path)] = file
    else:  # a pipe would block, and could not be read twice
      why = "is not a regular file" if os.path.exists(path) else "does not exist"
      raise UserError(f"`files`: {entry!r} {why} (looked in {os.path.abspath(path)})")
  if not found:
    raise UserError(f"`files`: {', '.join(map(repr, entries))} has no file; put some text there")
  return sorted(found.values(), key=lambda f: (f.name, f.path))


def _walk(root: str) -> Iterator[TextFile]:
  def fail(error: OSError) -> None:
    raise UserError(f"`files`: cannot read folder {error.filename}: {error.strerror}")

  visited = set()
  for folder, subfolders, names in os.walk(root, onerror=fail, followlinks=True):
    if os.path.realpath(folder) in visited:  # a link to a folder above, or visited already
      subfolders.clear()
      continue
    visited.add(os.path.realpath(folder))
    subfolders[:] = sorted(s for s in subfolders if s[0] != "." and s != "__pycache__")
    for name in sorted(names):
      path = os.path.join(folder, name)
      if name[0] != "." and os.path.isfile(path):
        yield TextFile(path, os.path.relpath(path, root).replace(os.sep, "/"))


def inspect_files(files: Sequence[TextFile]) -> list[Inspected]:
  """Reads every file for its size, a digest of its content, and whether it is UTF-8 text.

  Always reads the content, so that an edit that keeps size and time is noticed.

  Raises:
    UserError: a file cannot be read.
  """
  found: list[Inspected] = []
  with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
    for start in range(0, len(files), _AT_ONCE):
      found += pool.map(_inspect, files[start : start + _AT_ONCE])
  return found


def _inspect(file: TextFile) -> Inspected:
  sniff = _Sniff() if file.kind == "plain" and not file.compression else None
  content, size = hashlib.blake2b(digest_size=16), 0
  with reading(file):
    with open(file.path, "rb") as stream:
      stat = stat_key(os.fstat(stream.fileno()))
      while block := stream.read(_BLOCK):
        content.update(block)
        size += len(block)
        if sniff:
          sniff.add(block)
    error = sniff.end() if sniff else _sniff_compressed(file)
  return Inspected(file, size, content.hexdigest(), stat, error)


def _sniff_compressed(file: TextFile) -> str:
  """Checks the first MiB of a compressed file for text; `reading` reports damage later."""
  if file.kind != "plain":
    return ""
  sniff = _Sniff()
  with contextlib.suppress(OSError, EOFError, zlib.error), open_file(file) as stream:
    sniff.add(stream.read(_BLOCK))
  return sniff.error


class _Sniff:
  """Check of bytes, block by block, for UTF-8 text; `error` says why they are not."""

  def __init__(self) -> None:
    self.error = ""
    self._decoder = codecs.getincrementaldecoder("utf-8")()
    self._size = 0

  def add(self, block: bytes, final: bool = False) -> None:
    if self.error:
      return
    pending = len(self._decoder.getstate()[0])
    if self._size == 0 and b"\0" in block:
      self.error = "it holds NUL bytes, so it is binary or UTF-16"
    else:
      try:
        self._decoder.decode(block, final)
      except UnicodeDecodeError as error:
        self.error = f"it is not UTF-8 at byte {self._size - pending + error.start}"
    self._size += len(block)

  def end(self) -> str:
    self.add(b"", final=True)
    return self.error


def stat_key(stat: os.stat_result) -> tuple[int, ...]:
  """Returns facts that any write to a file changes, to notice an edit during preparation."""
  return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def open_file(file: TextFile) -> io.BufferedIOBase:
  """Opens a file for reading and decompresses it. Read from it inside the context `reading`."""
  if file.compression == "zst":
    pa = import_pyarrow(file)
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(file.path), "zstd"), _BLOCK)
  return gzip.open(file.path, "rb") if file.compression else open(file.path, "rb")


@contextlib.contextmanager
def reading(file: TextFile) -> Iterator[None]:
  """Turns a fault of reading `file` in the context into a UserError that names the file."""
  try:
    yield
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(
      f"{file.path} is not a whole gzip file: {error}; replace it or leave it out"
    ) from error
  except OSError as error:
    if error.errno in store.FULL:  # the fault of a temporary file, not of this one
      raise
    raise UserError(
      f"cannot read {file.path}: {error.strerror or error}; replace it or leave it out"
    ) from error


def import_pyarrow(file: TextFile) -> Any:
  """Returns the package pyarrow, which reads .parquet and .zst.

  Raises:
    UserError: it is not installed.
  """
  try:
    import pyarrow
  except ImportError as error:
    raise UserError(
      f"{file.path}: reading it needs pyarrow; pip install pyarrow, or in a clone of hc_jax "
      "pip install -e '.[parquet]'"
    ) from error
  return pyarrow
