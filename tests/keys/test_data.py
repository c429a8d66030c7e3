"""Every key of the group data changes the text, its tokens or its batches."""

import json

import numpy as np
import pytest

from hc_jax import UserError
from hc_jax.train.language import open_text, train_batches
from tests.keys.table import Row, pair

WORDS = "words.json"  # a tokenizer
TEXT = {"data.name": "text_files", "data.files": ("a.jsonl",), "data.dir": "prepared"}
TEXT |= {"train.batch_size": 4}
# For each key, the part of the observation that it changes, and another value.
DATA = {
  "files": ("text", Row(("b.jsonl",), TEXT)),
  "field": ("text", Row("title", TEXT)),
  "tokenizer": ("vocabulary", Row(WORDS, TEXT)),
  "val_fraction": ("documents", Row(0.9, TEXT)),
  "dir": ("folder", Row("elsewhere", TEXT)),
  "length": ("batch", Row(2, TEXT)),
  "document_mask": ("batch", Row(True, TEXT)),
}
REFUSED = {"name": Row("no_such_text", TEXT | {"data.files": ()})}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Enters a new folder with two files of records with two fields, and a tokenizer of words."""
  monkeypatch.chdir(tmp_path)
  for name in ("a", "b"):
    rows = [{"text": f"{name} has line {i}", "title": f"{name} {i}"} for i in range(60)]
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  model = {"type": "WordLevel", "vocab": {"<unk>": 0, "line": 1}, "unk_token": "<unk>"}
  words = {"version": "1.0", "added_tokens": [], "model": model}
  unset = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
  (tmp_path / WORDS).write_text(json.dumps(words | dict.fromkeys(unset)))
  return tmp_path


def seen(config):
  """Returns the text of a config and the first batch of its run."""
  text = open_text(config.data, log=lambda line: None)
  batch = train_batches(config, text, (0, 1), config.seed)[0]
  return {
    "text": text.tokenizer.decode(np.concatenate([text.train.tokens, text.val.tokens])),
    "vocabulary": text.tokenizer.vocab_size,
    "documents": (text.train.num_documents, text.val.num_documents),
    "folder": text.folder,
    "batch": {name: array.tolist() for name, array in batch.items()},
  }


@pytest.mark.parametrize("key", DATA)
def test_a_key_of_the_data_changes_what_is_trained_on(folder, key):
  part, row = DATA[key]
  before, after = map(seen, pair(f"data.{key}", row))
  assert before[part] != after[part]


def test_the_seed_changes_the_order_of_the_batches(folder):
  before, after = map(seen, pair("seed", Row(7, TEXT)))
  assert before["text"] == after["text"] and before["batch"] != after["batch"]


def test_the_name_of_the_data_is_the_one_that_is_opened(folder):
  _, after = pair("data.name", REFUSED["name"])
  with pytest.raises(UserError, match="no_such_text"):
    open_text(after.data)
