"""Every version gives equal documents, order, splits and tokens for one fixed corpus."""

import gzip
import hashlib
import json
import pathlib

import pytest


def write_corpus(folder, make_lines):
  """Writes files of every format, with the difficult cases of each; returns `folder`."""
  lines = make_lines(400_000, seed=5).splitlines(keepends=True)
  take = iter(lines)

  def text(count):
    return "".join(next(take) for _ in range(count))

  (folder / "many").mkdir(parents=True)
  (folder / "book.txt").write_text(text(3000))  # cut in several documents
  (folder / "empty.txt").write_text("")
  (folder / "mark.md").write_text("\ufeff" + "Grüße\r\n" * 30, newline="")
  (folder / "picture.png").write_bytes(b"\x89PNG\0\xff")  # left out
  (folder / "wide.txt.gz").write_bytes(gzip.compress(("é€😀" * 20_000).encode()))  # no line end
  for i in range(40):
    (folder / "many" / f"{i:02}.txt").write_text(text(4 + i % 7))
  records = [{"text": text(1 + i % 5), "number": i} for i in range(300)]
  records[7]["text"] = ""
  records[50]["text"] = text(1200)  # longer than a document may be
  records[90]["text"] = 'tab\t, quote ", backslash \\ and 日本語 \u2028 😀\n' * 40
  (folder / "records.jsonl").write_text("\n\n".join(map(json.dumps, records)))
  plain = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in reversed(records))
  (folder / "more.jsonl.gz").write_bytes(gzip.compress(plain.encode()))
  return folder


def write_parquet(path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  texts = [f"row {i} is här\n" * (1 + i % 40) for i in range(700)]
  texts[3], texts[9], texts[300] = None, "", "a long row\n" * 9000
  pq.write_table(pa.table({"text": texts}), path, row_group_size=128)


def digest(data):
  """Returns a digest of the tokens and offsets of both splits."""
  content = hashlib.md5()
  for name in ("train.tokens", "train.offsets", "val.tokens", "val.offsets"):
    content.update(pathlib.Path(data.folder, name).read_bytes())
  return content.hexdigest()


def test_text_records_and_rows(load, make_lines, tmp_path):
  write_corpus(tmp_path / "in", make_lines)
  write_parquet(tmp_path / "in" / "rows.parquet")
  data = load(tmp_path / "in", val_fraction=0.1)
  assert (data.train.num_documents, data.val.num_documents) == (1204, 140)
  assert digest(data) == "8563164372b295c56f0c5100a2cdd164"


def test_one_document_that_is_divided(load, make_lines, tmp_path):
  (tmp_path / "one.txt").write_text(make_lines(30_000))
  data = load(tmp_path / "one.txt")
  assert data.fingerprint == "46a24f1cbf5515269598bda8a9731c91"  # a resumed run compares it
  assert digest(data) == "7d718ab4ee362c9fcd04bf66f7fd7d35"
