import gzip
import json
import os

import pytest

from hc_jax.data import files
from hc_jax.errors import UserError


def read(path, field="text"):
  (file,) = files.find_files([str(path)])
  return [text.decode() for text in files.read_documents(file, field)]


def write(path, content, zipped):
  content = content.encode() if isinstance(content, str) else content
  path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
  return path


@pytest.mark.parametrize("zipped", [False, True])
def test_plain_text_without_its_byte_order_mark(tmp_path, zipped):
  path = write(tmp_path / f"a.txt{'.gz' * zipped}", "\ufeffGrüße\r\nzwei\n", zipped)
  assert read(path) == ["Grüße\r\nzwei\n"]


@pytest.mark.parametrize("zipped", [False, True])
def test_jsonl_gives_a_document_per_record(tmp_path, zipped):
  records = [{"body": "one\n", "n": 1}, {"body": ""}, {"body": "zwölf"}]
  lines = "\n\n".join(map(json.dumps, records))
  path = write(tmp_path / f"a.jsonl{'.gz' * zipped}", lines, zipped)
  assert read(path, "body") == ["one\n", "zwölf"]


@pytest.mark.parametrize("zipped", [False, True])
def test_parquet_gives_a_document_per_row(tmp_path, zipped):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  table = pa.table({"body": ["one", None, "", "zwölf"], "n": [1, 2, 3, 4]})
  pq.write_table(table, tmp_path / "t")
  path = write(tmp_path / f"a.parquet{'.gz' * zipped}", (tmp_path / "t").read_bytes(), zipped)
  assert read(path, "body") == ["one", "zwölf"]
  with pytest.raises(UserError, match=r"a\.parquet.*no field 'text'.*body.*data\.field"):
    read(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
  with pytest.raises(UserError, match=r"hc_jax\[parquet\]"):
    read(write(tmp_path / "a.parquet", b"PAR1", False))


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.txt", b"ok\n\xff\xfe", "not UTF-8"),
    ("a.txt.gz", b"no gzip", "not a whole gzip file"),
    ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-12], "not a whole gzip file"),
    ("a.txt.gz", gzip.compress(b"caf\xe9\n", mtime=0), "not UTF-8"),
    ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2 is not JSON"),
    ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2 holds no JSON object"),
    ("a.jsonl", b'{"body": "a", "n": 1}\n', "line 1.*no field 'text'.*body.*data.field"),
    ("a.jsonl", b'{"text": 5}\n', "no field 'text'"),
    ("a.jsonl", rb'{"text": "\ud800"}', "not valid Unicode"),
    ("a.parquet", b"no parquet", "not a whole parquet file"),
  ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path / name)
  assert str(tmp_path / name) in str(error.value)


def test_folders_are_searched_sorted_and_without_hidden_files(tmp_path):
  for name in ("b.txt", "a/z.py", ".git/x", "a/.hidden", "a/__pycache__/c.pyc"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
  found = files.find_files([str(tmp_path), str(tmp_path / "b.txt")])
  assert [(file.name, file.named) for file in found] == [("a/z.py", False), ("b.txt", True)]


def test_links_are_followed_once(tmp_path):
  (tmp_path / "real").mkdir()
  (tmp_path / "real" / "a.txt").write_text("x")
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
  (tmp_path / "real" / "back").symlink_to(tmp_path / "in")
  assert [file.name for file in files.find_files([str(tmp_path / "in")])] == ["link/a.txt"]


@pytest.mark.parametrize("entries", [[], ["missing.txt"], ["dangling"], ["empty"], ["pipe"]])
def test_nothing_to_read_is_a_user_error(tmp_path, monkeypatch, entries):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "empty").mkdir()
  (tmp_path / "dangling").symlink_to("nowhere")
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(UserError, match=r"data\.files"):
    files.find_files(entries)


def test_inspection_reads_the_content_and_finds_the_first_bad_byte(tmp_path):
  block = files._BLOCK
  good = "é" * (block // 2 + 3)  # a character across the blocks
  (tmp_path / "a").write_text(good)
  (tmp_path / "b").write_bytes(b"x" + good.encode() + b"\xff")
  (tmp_path / "c").write_bytes("wide".encode("utf-16"))
  (tmp_path / "d").write_bytes("é".encode()[:1])
  a, b, c, d = files.inspect_files(files.find_files([str(tmp_path)]))
  assert (a.text_error, a.size) == ("", len(good.encode()))
  assert f"byte {1 + len(good.encode())}" in b.text_error
  assert "UTF-16" in c.text_error
  assert "byte 0" in d.text_error
  before = os.stat(tmp_path / "a")
  (tmp_path / "a").write_text(good[:-1] + "è")
  os.utime(tmp_path / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
  assert files.inspect_files([a.file])[0].digest != a.digest
