"""Reading of the documents in a file of plain text, JSON lines or parquet."""

import codecs
import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from hc_jax.data import documents, long_lines
from hc_jax.data.files import TextFile, import_pyarrow, open_file, reading
from hc_jax.data.left_out import NO_TEXT, NOT_UNICODE, LeftOut
from hc_jax.errors import UserError

_BOM = codecs.BOM_UTF8
_DECODER = json.JSONDecoder()
# Most rows of a parquet file in memory at a time, and their approximate size in bytes.
_ROWS = 128
_ROWS_BYTES = 4 << 20
_BUFFER = 1 << 20


def read_documents(file: TextFile, left_out: LeftOut, folder: str | None = None) -> Iterator[bytes]:
  """Yields the documents of one file as UTF-8 bytes, none empty, none above 64 KiB.

  Cuts plain text at line ends. Each record of .jsonl or .parquet is at least one document. Memory
  does not grow with the file or with the length of a line, but a value of a parquet file must fit.

  Args:
    file: file to read.
    left_out: counter of records without text; its `field` names the field with a record's text.
    folder: folder for temporary files, which have no name and vanish with the process; None is the
      system's.

  Raises:
    UserError: the file is damaged, or is plain and not UTF-8.
  """
  readers = {"plain": _read_plain, "jsonl": _read_jsonl, "parquet": _read_parquet}
  with reading(file), open_file(file) as stream:
    yield from readers[file.kind](file, stream, left_out, folder)


def _read_plain(
  file: TextFile, stream: BinaryIO, left_out: LeftOut, folder: str | None
) -> Iterator[bytes]:
  del left_out, folder  # plain text has no records, and none of its pieces is long
  is_first = True
  for piece in documents.cut_stream(stream):
    if is_first:
      piece, is_first = piece.removeprefix(_BOM), False
    try:
      piece.decode()
    except UnicodeDecodeError as error:
      raise UserError(
        f"{file.path} is not UTF-8 text ({error.reason}); convert it (iconv -t utf-8) or leave it "
        "out of `files`"
      ) from error
    if piece:
      yield piece


def _read_jsonl(
  file: TextFile, stream: BinaryIO, left_out: LeftOut, folder: str | None
) -> Iterator[bytes]:
  for number in itertools.count(1):
    line = stream.readline(long_lines.LIMIT)
    if not line:
      return
    is_whole = len(line) < long_lines.LIMIT or line.endswith(b"\n")
    if number == 1:
      line = line.removeprefix(_BOM)
    if is_whole and not line.strip():
      continue
    left_out.num_records += 1
    try:
      if is_whole:
        text = _text_of(_parse(line), left_out)
        if text:
          yield from documents.cut(text.encode())
      else:
        yield from _read_long_line(line, stream, left_out, folder)
    except _NoText as error:
      left_out.add(NO_TEXT, _place(file, number), error.other_fields)
    except UnicodeError:  # bytes that are not UTF-8, or an escape of half a surrogate pair
      left_out.add(NOT_UNICODE, _place(file, number))
    except (ValueError, RecursionError) as error:
      raise UserError(
        f"{_place(file, number)} is not JSON: {error}; correct the line or leave the file out"
      ) from error


def _parse(line: bytes) -> Any:
  """Parses a line as `json.loads` does, in half the time for most lines."""
  try:
    text = line.decode()
    value, end = _DECODER.raw_decode(text)
  except ValueError:
    return json.loads(line)
  return json.loads(line) if text[end:].strip(" \t\n\r") else value


def _read_long_line(
  start: bytes, stream: BinaryIO, left_out: LeftOut, folder: str | None
) -> Iterator[bytes]:
  parts = (start[i : i + _BUFFER] for i in range(0, len(start), _BUFFER))
  pieces = itertools.chain(parts, _rest_of_line(stream))
  with tempfile.TemporaryFile(dir=folder) as aside:
    try:
      text = _text_of(long_lines.parse(pieces, aside), left_out)
    finally:
      for _ in pieces:  # skips the rest of the line if parsing stopped early
        pass
    if isinstance(text, str):
      yield from documents.cut(text.encode())
    else:
      aside.truncate(text.stop)
      aside.seek(text.start)
      yield from documents.cut_stream(aside)


def _rest_of_line(stream: BinaryIO) -> Iterator[bytes]:
  while piece := stream.readline(_BUFFER):
    yield piece
    if piece.endswith(b"\n"):
      return


class _NoText(Exception):
  """Signal of a record without text in its field; it has the names of fields with text."""

  def __init__(self, other_fields: list[str]) -> None:
    super().__init__()
    self.other_fields = other_fields


def _text_of(record: Any, left_out: LeftOut) -> str | long_lines.Aside:
  fields = record if isinstance(record, dict) else {}
  text = fields.get(left_out.field)
  if not _is_text(text):
    raise _NoText([key for key, value in fields.items() if _is_text(value)])
  return text


def _is_text(value: Any) -> bool:
  return isinstance(value, (str, long_lines.Aside))


def _place(file: TextFile, number: int) -> str:
  return f"{file.path}, line {number}"


def _read_parquet(
  file: TextFile, stream: BinaryIO, left_out: LeftOut, folder: str | None
) -> Iterator[bytes]:
  pa = import_pyarrow(file)
  import pyarrow.parquet as pq

  with contextlib.ExitStack() as stack:
    if file.compression:  # parquet needs random access
      packed, stream = stream, stack.enter_context(tempfile.TemporaryFile(dir=folder))
      shutil.copyfileobj(packed, stream, _BUFFER)
    try:
      # pre_buffer would read a whole row group, which may be the whole file.
      table = pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
      yield from _read_rows(pa, file, table, left_out)
    except pa.ArrowException as error:
      raise UserError(
        f"{file.path} is not a whole parquet file: {error}; replace it or leave it out"
      ) from error


def _read_rows(pa: Any, file: TextFile, table: Any, left_out: LeftOut) -> Iterator[bytes]:
  field, num_rows = left_out.field, table.metadata.num_rows
  texts = [column.name for column in table.schema_arrow if _holds_text(pa, column.type)]
  left_out.num_records += num_rows
  if field not in texts:
    left_out.add(NO_TEXT, f"{file.path}, row 1", texts, num_rows)
    return
  row = 0
  for batch in table.iter_batches(_rows_at_once(table.metadata, field), columns=[field]):
    column = batch.column(0)
    if pa.types.is_dictionary(column.type):
      column = column.dictionary_decode()
    for text in column.cast(pa.large_binary()).to_pylist():
      row += 1
      if text is None:
        left_out.add(NO_TEXT, f"{file.path}, row {row}")
      elif _is_utf8(text):
        yield from documents.cut(text)
      else:
        left_out.add(NOT_UNICODE, f"{file.path}, row {row}")


def _holds_text(pa: Any, kind: Any) -> bool:
  """Returns whether a column's type is strings or bytes, or categories of strings or bytes."""
  kind = kind.value_type if pa.types.is_dictionary(kind) else kind
  names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
  return any(getattr(pa.types, f"is_{name}")(kind) for name in names)


def _rows_at_once(metadata: Any, field: str) -> int:
  """Returns the number of rows that take about 4 MiB in the row group with the longest rows."""
  longest = 1
  for i in range(metadata.num_row_groups):
    group = metadata.row_group(i)
    columns = (group.column(j) for j in range(group.num_columns))
    size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == field)
    longest = max(longest, size // max(1, group.num_rows))
  return max(1, min(_ROWS, _ROWS_BYTES // longest))


def _is_utf8(text: bytes) -> bool:
  try:
    text.decode()
  except UnicodeDecodeError:
    return False
  return True
