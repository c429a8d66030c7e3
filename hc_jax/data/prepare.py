"""Tokenisation of documents into one token array per split. No other module tokenises text."""

import collections
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from hc_jax.data import documents, tokens
from hc_jax.data.sources import Documents
from hc_jax.data.tokenizers.base import BATCH_BYTES, Tokenizer
from hc_jax.errors import UserError

# Entry of a split in card.json: dtype, num_tokens, num_documents, num_bytes, counted_bytes (the sum
# of the tokens' bytes), and sha256 of its two files.
Card = dict[str, Any]

# Raise this when the same text gives other files, so that old files are not taken for new ones.
FORMAT_VERSION = 1

# Number of documents whose digests are kept, for the case that one split comes out empty.
_FEW = 4096
_PIECES_OF_ONE = 8
# Approximate bytes that a document takes in memory, in addition to its text, until it is written.
_OVERHEAD = 256


@dataclasses.dataclass(frozen=True)
class SplitRule:
  """Rule that assigns a document to validation by its content, so it is never in both splits.

  Attributes:
    fraction: share of digests in validation.
    forced: digests of the validation documents; None chooses them by `fraction`.
    max_bytes: largest size of a document; longer ones are cut.
  """

  fraction: float
  forced: frozenset[int] | None = None
  max_bytes: int = documents.MAX_BYTES

  def is_val(self, digest: int) -> bool:
    return digest in self.forced if self.forced is not None else digest < self.fraction * 2**64


class SplitWriter(contextlib.AbstractContextManager):
  """Context manager that writes the tokens and offsets of one split as documents come."""

  def __init__(self, folder: str, name: str, tokenizer: Tokenizer) -> None:
    self._tokenizer = tokenizer
    self._dtype = tokens.token_dtype(tokenizer.vocab_size)
    path = os.path.join(folder, name)
    self._files = contextlib.ExitStack()
    # __exit__ closes them, which the linter does not see.
    self._streams = {
      part: self._files.enter_context(open(f"{path}.{part}", "wb"))  # noqa: SIM115
      for part in tokens.PARTS
    }
    self._sha256 = {part: hashlib.sha256() for part in tokens.PARTS}
    self._write("offsets", np.zeros(1, np.int64))
    self._pending: list[bytes] = []
    self._room = BATCH_BYTES
    self.num_tokens = self.num_documents = self.num_bytes = self.counted_bytes = 0

  def _write(self, part: str, array: np.ndarray) -> None:
    self._streams[part].write(array)
    self._sha256[part].update(array)

  def add(self, document: bytes) -> None:
    self._pending.append(document)
    self._room -= len(document) + _OVERHEAD
    if self._room <= 0:
      self._flush()

  def _flush(self) -> None:
    if not self._pending:
      return
    encoded = self._tokenizer.encode_batch(self._pending)
    ends = np.cumsum([len(ids) + 1 for ids in encoded], dtype=np.int64)
    written = np.empty(ends[-1], self._dtype)
    is_text = np.ones(len(written), bool)
    is_text[0] = is_text[ends[:-1]] = False
    written[is_text] = np.concatenate(encoded)
    written[~is_text] = self._tokenizer.bos_id
    self._write("tokens", written)
    self._write("offsets", self.num_tokens + ends)
    self.num_tokens += len(written)
    self.num_documents += len(encoded)
    self.num_bytes += sum(map(len, self._pending))
    self.counted_bytes += int(self._tokenizer.token_bytes[written].sum(dtype=np.int64))
    self._pending, self._room = [], BATCH_BYTES

  def finish(self) -> Card:
    """Writes the remaining documents; returns the split's entry in the card."""
    self._flush()
    return {
      "dtype": self._dtype.name,
      "num_tokens": self.num_tokens,
      "num_documents": self.num_documents,
      "num_bytes": self.num_bytes,
      "counted_bytes": self.counted_bytes,
      "sha256": {part: sha256.hexdigest() for part, sha256 in self._sha256.items()},
    }

  def __exit__(self, *error: object) -> None:
    self._files.close()


def write_splits(
  splits: dict[str, Documents], folder: str, tokenizer: Tokenizer, val_fraction: float
) -> dict[str, Card]:
  """Tokenises the documents into `folder`.

  Args:
    splits: splits of the source, "train" and maybe "val". Without "val", documents are divided by
      their content. A train document that is also in "val" is left out.
    folder: folder for {train,val}.{tokens,offsets}.
    tokenizer: tokenizer, whose bos starts every document.
    val_fraction: share of documents for validation. If that gives none, one document is taken; a
      single document is cut into 8 pieces first.

  Returns:
    Entries of the card for "train" and "val".

  Raises:
    UserError: the splits have no text, or only one document repeated.
  """
  if "val" in splits:
    return _write_given(splits, folder, tokenizer)
  rule = SplitRule(val_fraction)
  for _ in range(3):  # by the fraction; with one document cut in pieces; with one document forced
    cards, seen = _write_divided(splits["train"], folder, tokenizer, rule)
    if cards["train"]["num_tokens"] and cards["val"]["num_tokens"]:
      return cards
    if not seen:
      raise UserError(documents.EMPTY)
    rule = _next_rule(rule, seen)
  raise UserError(
    "the text cannot be divided into training and validation: all of it is one repeated document; "
    "give more text"
  )


def _next_rule(rule: SplitRule, seen: collections.Counter[int]) -> SplitRule:
  total = seen.total()
  if len(seen) == 1 and rule.max_bytes == documents.MAX_BYTES:
    return dataclasses.replace(rule, max_bytes=max(4, -(-total // _PIECES_OF_ONE)))
  # The first by digest that leaves at least half of the text for training.
  fitting = [digest for digest in sorted(seen) if 2 * seen[digest] <= total]
  return dataclasses.replace(rule, forced=frozenset(fitting[:1] or sorted(seen)[:1]))


def _write_divided(
  source: Documents, folder: str, tokenizer: Tokenizer, rule: SplitRule
) -> tuple[dict[str, Card], collections.Counter[int]]:
  """Writes both splits by `rule`; also returns the sizes of the first `_FEW` digests, in bytes."""
  seen: collections.Counter[int] = collections.Counter()
  with (
    SplitWriter(folder, "train", tokenizer) as train,
    SplitWriter(folder, "val", tokenizer) as val,
  ):
    for document in _pieces(source(), rule.max_bytes):
      digest = documents.digest(document)
      if len(seen) < _FEW:
        seen[digest] += len(document)
      (val if rule.is_val(digest) else train).add(document)
    return {"train": train.finish(), "val": val.finish()}, seen


def _write_given(
  splits: dict[str, Documents], folder: str, tokenizer: Tokenizer
) -> dict[str, Card]:
  in_val: set[int] = set()
  cards = {}
  for name in ("val", "train"):
    with SplitWriter(folder, name, tokenizer) as writer:
      for document in _pieces(splits[name](), documents.MAX_BYTES):
        digest = documents.digest(document)
        if name == "val":
          in_val.add(digest)
        elif digest in in_val:
          continue
        writer.add(document)
      cards[name] = writer.finish()
    if not cards[name]["num_tokens"]:
      raise UserError(f"the dataset's {name} split has no text of its own; choose another dataset")
  return cards


def _pieces(source: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
  for document in source:
    if len(document) > max_bytes:
      yield from documents.cut(document, max_bytes)
    elif document:
      yield document
