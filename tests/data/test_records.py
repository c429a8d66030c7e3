import gzip
import io
import json
import tracemalloc

import pytest

from hc_jax.data import files, long_lines, records
from hc_jax.data.left_out import LeftOut
from hc_jax.errors import UserError


def read(path, field="text", left_out=None):
  (file,) = files.find_files([str(path)])
  left_out = left_out or LeftOut(field)
  return [text.decode() for text in records.read_documents(file, left_out)]


def zstd(content):
  pa = pytest.importorskip("pyarrow")
  return pa.compress(content, "zstd", asbytes=True)


PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def write(path, content):
  content = content.encode() if isinstance(content, str) else content
  path.write_bytes(PACKED.get(path.suffix, bytes)(content))
  return path


@pytest.mark.parametrize("end", PACKED)
def test_plain_text_without_its_byte_order_mark(tmp_path, end):
  path = write(tmp_path / f"a.txt{end}", "\ufeffGrüße\r\nzwei\n")
  assert read(path) == ["Grüße\r\nzwei\n"]


@pytest.mark.parametrize("end", PACKED)
def test_jsonl_gives_a_document_per_record(tmp_path, end):
  records = [{"body": "one\n", "n": 1}, {"body": ""}, {"body": "zwölf"}]
  path = write(tmp_path / f"a.jsonl{end}", "\n\n".join(map(json.dumps, records)))
  assert read(path, "body") == ["one\n", "zwölf"]


def write_table(path, **columns):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  stream = io.BytesIO()
  pq.write_table(pa.table(columns), stream, row_group_size=3)
  return write(path, stream.getvalue())


@pytest.mark.parametrize("end", PACKED)
def test_parquet_gives_a_document_per_row(tmp_path, end):
  columns = {"body": ["one", "", "zwölf"] * 200, "n": [1, 2, 3] * 200}
  path = write_table(tmp_path / f"a.parquet{end}", **columns)
  assert read(path, "body") == ["one", "zwölf"] * 200


@pytest.mark.parametrize(
  "kind", ["string", "large_string", "string_view", "binary", "large_binary", "binary_view", "cat"]
)
def test_parquet_columns_that_hold_text(tmp_path, kind):
  pa = pytest.importorskip("pyarrow")
  texts = ["one", None, "zwölf", "one"]
  if kind == "cat":
    column = pa.array(texts).dictionary_encode()
  else:
    column = pa.array(texts).cast(getattr(pa, kind)())
  left_out = LeftOut("text")
  assert read(write_table(tmp_path / "a.parquet", text=column), left_out=left_out) == [
    "one",
    "zwölf",
    "one",
  ]
  assert left_out.note().startswith("left out 1 of 4 records: 1 without text in field 'text'")


def test_one_rule_for_records_without_text(tmp_path):
  """JSON lines and parquet with equal records skip equal records, for equal reasons."""
  pa = pytest.importorskip("pyarrow")
  texts = [b"one", None, b"caf\xe9", b"zw\xc3\xb6lf"]
  column = pa.Array.from_buffers(pa.string(), 4, pa.array(texts, pa.binary()).buffers())
  table = write_table(tmp_path / "a.parquet", text=column)
  lines = [b'{"text": ' + (b'"%b"' % text if text else b"null") + b"}" for text in texts]
  notes = []
  for path in (table, write(tmp_path / "a.jsonl", b"\n".join(lines))):
    left_out = LeftOut("text")
    assert read(path, left_out=left_out) == ["one", "zwölf"]
    notes.append(left_out.note().replace("parquet", "jsonl").replace("row", "line"))
  assert notes[0] == notes[1]
  assert "2 of 4" in notes[0] and "line 2" in notes[0] and "line 3" in notes[0]


@pytest.mark.parametrize(
  "line",
  [
    *(b"null", b"[1]", b'"text"', b'{"text": 5}', b'{"text": ["a"]}', b'{"body": "b"}', b"{}"),
    *(b'{"text": "\xff"}', rb'{"text": "\ud800"}', b'{"text": "a", "b": "\xff"}'),
  ],
)
def test_a_line_without_text_is_counted(tmp_path, line):
  left_out = LeftOut("text")
  path = write(tmp_path / "a.jsonl", b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
  assert read(path, left_out=left_out) == ["a", "b"]
  assert (
    left_out.note().startswith("left out 1 of 3 records: 1 with") and "line 2" in left_out.note()
  )


def test_the_remedy_names_fields_that_hold_text(tmp_path):
  for path in (
    write(tmp_path / "a.jsonl", '{"n": 1, "body": "x"}'),
    write_table(tmp_path / "a.parquet", n=[1], body=["x"]),
  ):
    left_out = LeftOut("text")
    assert read(path, left_out=left_out) == []
    assert left_out.remedy() == "fields that hold text: body; set `field`"
    assert "1 of 1" in left_out.note()


@pytest.mark.parametrize("name", ["a.parquet", "a.txt.zst"])
def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch, name):
  monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
  (tmp_path / name).write_bytes(b"PAR1")
  with pytest.raises(UserError, match=r"pip install pyarrow"):
    read(tmp_path / name)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.txt", b"ok\n\xff\xfe", "not UTF-8"),
    ("a.txt.gz", b"no gzip", "not a whole gzip file"),
    ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-12], "not a whole gzip file"),
    ("a.txt.gz", gzip.compress(b"caf\xe9\n", mtime=0), "not UTF-8"),
    ("a.txt.zst", b"no zstd", "cannot read"),
    ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2 is not JSON"),
    ("a.jsonl", b'{"text": "a"} {"text": "b"}', "line 1 is not JSON"),
    ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ("a.parquet", b"no parquet", "not a whole parquet file"),
  ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path / name)
  assert str(tmp_path / name) in str(error.value)


def test_what_json_loads_takes_is_taken(tmp_path):
  """Accepts a byte order mark before any line, as in concatenated files, and spaces around."""
  lines = [b'\xef\xbb\xbf{"text": "a"}', b'  {"text": "b"}\t\r', b'\xef\xbb\xbf{"text": "c"}']
  assert read(write(tmp_path / "a.jsonl", b"\n".join(lines))) == ["a", "b", "c"]


# Every kind of character that can be at the end of a piece of a long string.
HARD = 'quote " backslash \\ \\\\ tab\t é 日本 😀 \u2028\x7f'


def long_record(escaped, size=300_000):
  text = (HARD + "\n") * (size // len(HARD))
  record = {"before": "x" * 100_000, "a": [{"text": "inner"}, '"]'], "text": text, "after": None}
  return text, json.dumps(record, ensure_ascii=escaped).encode()


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("step", [1 << 20, 65_537, 4096, 997])
def test_a_long_line_is_parsed_as_json_loads_would(escaped, step):
  text, line = long_record(escaped)
  pieces = (line[i : i + step] for i in range(0, len(line), step))
  aside = io.BytesIO()
  record = long_lines.parse(pieces, aside)
  place = record["text"]
  assert aside.getvalue()[place.start : place.stop].decode() == text
  place = record["before"]
  assert aside.getvalue()[place.start : place.stop] == b"x" * 100_000
  assert record["a"] == [] and record["after"] is None


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_pieces_of_any_size(monkeypatch, step):
  monkeypatch.setattr(long_lines, "_LONG", 20)
  text, line = long_record(escaped=True, size=200)
  aside = io.BytesIO()
  record = long_lines.parse((line[i : i + step] for i in range(0, len(line), step)), aside)
  place = record["text"]
  assert aside.getvalue()[place.start : place.stop].decode() == text


@pytest.mark.parametrize("escaped", [False, True])
def test_lines_beyond_the_limit_give_the_same_documents(tmp_path, monkeypatch, escaped):
  text, line = long_record(escaped)
  lines = [b'{"text": "first"}', line, b'{"text": null}', line, b'{"text": "last"}']
  path = write(tmp_path / "a.jsonl", b"\n".join(lines))
  seen = []
  for limit in (long_lines.LIMIT, 1000):
    monkeypatch.setattr(long_lines, "LIMIT", limit)
    left_out = LeftOut("text")
    seen.append((read(path, left_out=left_out), left_out.note()))
  assert seen[0] == seen[1]
  assert "".join(seen[0][0]) == "first" + text + text + "last"


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    (b'{"text": "%b"' % (b"a" * 3000), "line 2 is not JSON"),
    (b'{"text": "%b' % (b"a" * 3000), "line 2 is not JSON"),
    (b'{"text": "%b\\' % (b"a" * 3000), "line 2 is not JSON"),
    (b'{"text": "%b\\x"}' % (b"a" * 3000), "line 2 is not JSON"),
    (b'{"text": "%b\t"}' % (b"a" * 3000), "line 2 is not JSON"),
    (b'{"text": "%b"}}' % (b"a" * 3000), "line 2 is not JSON"),
    (b"[%b]" % (b"1, " * 3000), "besides long texts"),
    (b'{"text": "%b\xff%b"}' % (b"a" * 3000, b"a" * 3000), "valid UTF-8"),
    (b'{"text": "%b\\ud800%b"}' % (b"a" * 3000, b"a" * 3000), "valid UTF-8"),
    (b'{"text": "%b"}' % (rb"\ud83d" * 3000), "valid UTF-8"),
    (b'{"text": %b1%b}' % (b"[" * 3000, b"]" * 3000), "without text"),
    (b'{"body": "%b"}' % (b"a" * 3000), "without text"),
  ],
)
def test_long_lines_that_are_wrong(tmp_path, monkeypatch, line, reason):
  monkeypatch.setattr(long_lines, "LIMIT", 1000)
  monkeypatch.setattr(long_lines, "_LONG", 100)
  path = write(tmp_path / "a.jsonl", b'{"text": "a"}\n' + line + b'\n{"text": "b"}')
  left_out = LeftOut("text")
  try:
    assert read(path, left_out=left_out) == ["a", "b"]
    assert reason in left_out.note() and "line 2" in left_out.note()
  except UserError as error:
    assert reason in str(error)


def test_a_long_line_is_not_held_in_memory(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_bytes(b'{"text": "' + b"words and words\\n" * 2_000_000 + b'"}\n')  # 34 MB
  (file,) = files.find_files([str(path)])
  tracemalloc.start()
  try:
    size = sum(map(len, records.read_documents(file, LeftOut("text"))))
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert size == 32_000_000 and peak < 16e6
