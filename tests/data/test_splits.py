"""Validation has the requested share of documents, chosen only by their content."""

import hashlib
import json

import pytest

COUNT = 1000


@pytest.fixture(scope="module")
def texts():
  return [f"document {i} of {COUNT}\n" for i in range(COUNT)]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_the_share_of_validation_is_the_share_that_was_asked_for(
  load, documents_of, texts, tmp_path, share
):
  (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
  data = load(tmp_path / "a.jsonl", val_fraction=share)
  train, val = documents_of(data, data.train), documents_of(data, data.val)
  # Four standard deviations of the number of documents that fall below a threshold.
  assert abs(len(val) - share * COUNT) < 4 * (COUNT * share * (1 - share)) ** 0.5
  # Validation has the documents whose digest (64 bits of BLAKE2b) is in the lowest share.
  lowest = [t for t in texts if _digest(t) < share * 2**64]
  assert val == lowest and train == [t for t in texts if t not in set(lowest)]


def _digest(text):
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
