"""Files read as one split, and windows with a tail that is not full."""

import gzip
import json

import numpy as np
import pytest

import hc_jax as hc
from hc_jax import data


def read(*paths, field="text", log=print):
  return data.read_files(
    [str(p) for p in paths], data.load_tokenizer("bytes"), field=field, log=log
  )


def test_every_byte_of_every_file_is_there(tmp_path):
  folder = tmp_path / "notes"
  folder.mkdir()
  (folder / "b.txt").write_text("two\n")
  (folder / "a.txt.gz").write_bytes(gzip.compress(b"one"))
  (folder / "c.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in ("drei", "vier")))
  found = read(folder, folder / "b.txt")  # given twice, read once
  texts = [b"one", b"two\n", b"drei", b"vier"]
  bos = data.load_tokenizer("bytes").bos_id
  assert found.tokens.tolist() == [i for text in texts for i in (bos, *text)]
  assert found.offsets.tolist() == [0, 4, 9, 14, 19]
  assert found.num_bytes == 15 and found.num_documents == 4


def test_more_than_the_tokenizer_is_given_at_a_time(tmp_path, monkeypatch):
  monkeypatch.setattr("hc_jax.data.whole.BATCH_BYTES", 2)
  (tmp_path / "c.jsonl").write_text('{"t": "abc"}\n{"t": "d"}\n{"t": "e"}\n{"t": "f"}\n')
  found = read(tmp_path, field="t")
  assert found.num_bytes == 6 and found.offsets.tolist() == [0, 4, 6, 8, 10]


def test_what_is_no_text_is_refused_or_said(tmp_path):
  (tmp_path / "x.bin").write_bytes(b"\0\1")
  (tmp_path / "empty.txt").write_text("")
  with pytest.raises(hc.UserError, match=r"no text is left.*x\.bin"):
    read(tmp_path)
  (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
  lines = []
  assert read(tmp_path, log=lines.append).num_bytes == 1
  assert "x.bin" in lines[0] and "left out 1 of 2 records" in lines[1]
  with pytest.raises(hc.UserError, match="not text"):
    read(tmp_path / "x.bin")
  with pytest.raises(hc.UserError, match="does not exist"):
    read(tmp_path / "none.txt")


@pytest.mark.parametrize("size", [2, 4, 5, 6, 9, 10])
@pytest.mark.parametrize("document_mask", [False, True])
def test_with_a_tail_every_token_is_a_target_once(size, document_mask):
  ids = np.arange(10, 10 + size).astype(np.uint16)
  offsets = np.array([0, 2, size] if size > 2 else [0, size])
  split = data.TokenArray(ids, offsets, size, "given")
  windows = data.Windows(split, 4, document_mask, tail=True)
  rows = [windows[i] for i in range(len(windows))]
  found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
  there = np.arange(len(found["mask"])) < size - 1
  starts = there & (np.arange(len(there)) == 1) & (size > 2) & document_mask
  np.testing.assert_array_equal(found["mask"], there & ~starts)
  np.testing.assert_array_equal(found["inputs"][there], ids[:-1])
  np.testing.assert_array_equal(found["targets"][there], ids[1:])
  assert not found["targets"][~there].any()
  if document_mask:  # padding belongs to no document
    padding = np.arange(len(there)) > size - 1
    assert not found["segment_ids"][padding].any() and found["segment_ids"][:size].all()


def test_a_tail_of_one_token_is_no_window():
  split = data.TokenArray(np.zeros(1, np.uint16), np.array([0, 1]), 0, "given")
  with pytest.raises(hc.UserError, match="holds 1 tokens"):
    data.Windows(split, 4, tail=True)
