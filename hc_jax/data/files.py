"""The user's files: which there are, what they hold, and the documents inside."""

import codecs
import concurrent.futures
import dataclasses
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence

from hc_jax.data import documents
from hc_jax.errors import UserError

_BLOCK = 1 << 20
_BOM = codecs.BOM_UTF8


@dataclasses.dataclass(frozen=True)
class TextFile:
  """One file that holds text.

  Attributes:
    path: where it lies, as opened.
    name: its path below the folder that was given (or its own name): part of the fingerprint,
      so that a corpus that moved as a whole is not prepared again.
    named: given by the user by name, not found in a folder.
  """

  path: str
  name: str
  named: bool = False

  @property
  def kind(self) -> str:
    """`jsonl`, `parquet` or `plain`, by the name without `.gz`."""
    stem = self.path.lower().removesuffix(".gz")
    if stem.endswith((".jsonl", ".ndjson")):
      return "jsonl"
    return "parquet" if stem.endswith(".parquet") else "plain"

  @property
  def gzipped(self) -> bool:
    return self.path.lower().endswith(".gz")


@dataclasses.dataclass(frozen=True)
class Inspected:
  """A file as it was when its content was read for the fingerprint."""

  file: TextFile
  size: int
  digest: str
  stat: tuple[int, ...]
  text_error: str  # why it is not UTF-8 text; "" where it is, or where only parsing can tell


def find_files(entries: Sequence[str]) -> list[TextFile]:
  """The files that `entries` (files or folders) name, sorted, each once.

  Folders are searched to the bottom, links included; names that start with a dot and
  `__pycache__` are passed over.

  Raises:
    UserError: no entry, or one that is no file or folder.
  """
  if not entries:
    raise UserError(
      "data.files is empty: data.name=text_files needs the files or folders to read; "
      "say --config.data.files=\"('my_text/',)\""
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
      why = "is no regular file" if os.path.exists(path) else "does not exist"
      raise UserError(f"data.files: {entry!r} {why} (looked in {os.path.abspath(path)})")
  if not found:
    raise UserError(f"data.files: no file in {', '.join(map(repr, entries))}; put some text there")
  return sorted(found.values(), key=lambda f: (f.name, f.path))


def _walk(root: str) -> Iterator[TextFile]:
  def fail(error: OSError) -> None:
    raise UserError(f"data.files: cannot read folder {error.filename}: {error.strerror}")

  visited = set()
  for folder, subfolders, names in os.walk(root, onerror=fail, followlinks=True):
    if os.path.realpath(folder) in visited:  # a link back up
      subfolders.clear()
      continue
    visited.add(os.path.realpath(folder))
    subfolders[:] = sorted(s for s in subfolders if s[0] != "." and s != "__pycache__")
    for name in sorted(names):
      path = os.path.join(folder, name)
      if name[0] != "." and os.path.isfile(path):
        yield TextFile(path, os.path.relpath(path, root).replace(os.sep, "/"))


def inspect_files(files: Sequence[TextFile]) -> list[Inspected]:
  """Reads every file once: size, digest of the content, and whether it is UTF-8 text.

  Always the content, never the modification time: an edit that keeps size and time is seen.

  Raises:
    UserError: a file cannot be read.
  """
  with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
    return list(pool.map(_inspect, files))


def _inspect(file: TextFile) -> Inspected:
  sniff = file.kind == "plain" and not file.gzipped
  decoder = codecs.getincrementaldecoder("utf-8")()
  content, size, text_error = hashlib.blake2b(digest_size=16), 0, ""
  try:
    with open(file.path, "rb") as stream:
      stat = stat_key(os.fstat(stream.fileno()))
      while block := stream.read(_BLOCK):
        content.update(block)
        if sniff and not text_error:
          text_error = _text_error(block, size, decoder)
        size += len(block)
      if sniff and not text_error:
        text_error = _text_error(b"", size, decoder, final=True)
  except OSError as error:
    raise UserError(f"cannot read {file.path}: {error.strerror or error}") from error
  return Inspected(file, size, content.hexdigest(), stat, text_error)


def _text_error(block: bytes, start: int, decoder: codecs.IncrementalDecoder, final=False) -> str:
  if start == 0 and b"\0" in block:
    return "it holds NUL bytes, so it is binary or UTF-16"
  pending = len(decoder.getstate()[0])
  try:
    decoder.decode(block, final)
  except UnicodeDecodeError as error:
    return f"it is not UTF-8 at byte {start - pending + error.start}"
  return ""


def stat_key(stat: os.stat_result) -> tuple[int, ...]:
  """What changes when a file is written: to notice an edit while its text is being prepared."""
  return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def read_documents(file: TextFile, field: str) -> Iterator[bytes]:
  """The documents of one file as UTF-8 bytes, none empty, none above 64 KiB.

  Args:
    file: plain text is cut at line ends; a record of .jsonl or .parquet is a document of its own.
    field: the field of a record that holds its text.

  Raises:
    UserError: the file is damaged, not UTF-8, or its records have no such field.
  """
  try:
    yield from _READERS[file.kind](file, field)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(f"{file.path} is not a whole gzip file: {error}") from error
  except OSError as error:
    raise UserError(f"cannot read {file.path}: {error.strerror or error}") from error


def _open(file: TextFile) -> io.BufferedIOBase:
  return gzip.open(file.path, "rb") if file.gzipped else open(file.path, "rb")


def _read_plain(file: TextFile, field: str) -> Iterator[bytes]:
  del field  # plain text has none
  with _open(file) as stream:
    first = True
    for piece in documents.cut_stream(stream):
      if first:
        piece, first = piece.removeprefix(_BOM), False
      try:
        piece.decode()
      except UnicodeDecodeError as error:
        raise UserError(f"{file.path} is not UTF-8 text ({error.reason}){_CONVERT}") from error
      if piece:
        yield piece


def _read_jsonl(file: TextFile, field: str) -> Iterator[bytes]:
  with _open(file) as stream:
    for number, line in enumerate(stream, 1):
      if not line.strip():
        continue
      where = f"{file.path}, line {number}"
      try:
        record = json.loads(line.removeprefix(_BOM) if number == 1 else line)
      except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
      if not isinstance(record, dict):
        raise UserError(f"{where} holds no JSON object but {type(record).__name__}")
      if not isinstance(record.get(field), str):
        raise UserError(f"{where}: {_no_field(field, [k for k in record if _is_text(record[k])])}")
      yield from documents.cut(_encode(record[field], where))


def _read_parquet(file: TextFile, field: str) -> Iterator[bytes]:
  try:
    import pyarrow as pa
    import pyarrow.parquet as pq
  except ImportError as error:
    raise UserError(
      f"{file.path}: reading it needs pyarrow; pip install 'hc_jax[parquet]'"
    ) from error
  with _open(file) as stream:
    try:
      table = pq.ParquetFile(io.BytesIO(stream.read()) if file.gzipped else stream)
      schema = table.schema_arrow
      texts = [f.name for f in schema if pa.types.is_string(f.type) or _is_large(pa, f.type)]
      if field not in texts:
        raise UserError(f"{file.path}: {_no_field(field, texts)}")
      for batch in table.iter_batches(batch_size=1024, columns=[field]):
        for text in batch.column(0).to_pylist():
          if text:
            yield from documents.cut(text.encode())
    except pa.ArrowException as error:
      raise UserError(f"{file.path} is not a whole parquet file: {error}") from error


def _is_large(pa, kind) -> bool:
  return pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_text(value: object) -> bool:
  return isinstance(value, str)


def _encode(text: str, where: str) -> bytes:
  try:
    return text.encode()
  except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
    raise UserError(f"{where}: the text is not valid Unicode: {error.reason}") from error


def _no_field(field: str, texts: Sequence[str]) -> str:
  hint = f"those that hold text: {', '.join(texts)}" if texts else "no field holds text"
  return f"no field {field!r} with text; {hint}; set data.field"


_CONVERT = "; convert it (iconv -t utf-8) or leave it out of data.files"

_READERS = {"plain": _read_plain, "jsonl": _read_jsonl, "parquet": _read_parquet}
