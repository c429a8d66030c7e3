"""What a tokenizer is."""

import abc
import hashlib
from collections.abc import Sequence

import numpy as np

from hc_jax.errors import UserError

# Text to give `Tokenizer.encode_batch` at a time.
BATCH_BYTES = 4 << 20


class Tokenizer(abc.ABC):
  """Text to token ids and back.

  Attributes:
    name: "bytes", "sentencepiece" or "huggingface".
    spec: what `load_tokenizer` was given.
    path: the absolute path of its file, None for bytes: what a run copies to be able to speak.
    vocab_size: ids are 0 .. vocab_size - 1, `bos_id` among them.
    bos_id: the id that starts every document. `encode` never returns it for text.
    token_bytes: [vocab_size] int32, bytes of text that a token stands for, 0 for special tokens.
      Their sum over a document's tokens is the document's size, exactly for bytes and for
      byte-level tokenizers, and as nearly as its normalisation lets a tokenizer that rewrites text.
    fingerprint: names what decides the tokens: a digest of the file, and how it is read.
  """

  name: str
  spec: str
  path: str | None
  vocab_size: int
  bos_id: int
  token_bytes: np.ndarray
  fingerprint: str

  def encode(self, text: str) -> np.ndarray:
    """`text` to ids, [N] int32, without bos."""
    return self.encode_batch([text.encode("utf-8", "replace")])[0].astype(np.int32)

  @abc.abstractmethod
  def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
    """Encodes documents of UTF-8, each to [N] integer ids without bos."""

  @abc.abstractmethod
  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Ids to text; special tokens give none, bytes that are not UTF-8 the replacement character."""

  def extend(self, prompt: str, ids: Sequence[int] | np.ndarray) -> str:
    """Returns `prompt`, as it is, and the text that `ids` add to it.

    Many tokenizers drop the space in front of the first token that they decode. So the ids are
    decoded together with those of the prompt.
    """
    context = self.encode(prompt)
    before, whole = self.decode(context), self.decode(np.append(context, np.int32(ids)))
    differs = (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b)
    added = whole[next(differs, min(len(before), len(whole))) :]
    if prompt[-1:].isspace() and not before[-1:].isspace():  # encoding dropped it, ids bring it
      added = added.removeprefix(" ")
    return prompt + added


def read_fingerprint(path: str) -> str:
  """Digest of a tokenizer's file.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with open(path, "rb") as stream:
      return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
  except OSError as error:
    raise UserError(f"`tokenizer`: cannot read {path}: {error.strerror}") from error


def check_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
  """`ids` as [N] int64, refused where one lies outside the vocabulary."""
  ids = np.asarray(ids, dtype=np.int64).reshape(-1)
  if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
    raise ValueError(f"token ids must lie in 0 .. {vocab_size - 1}, got {ids.min()} .. {ids.max()}")
  return ids
