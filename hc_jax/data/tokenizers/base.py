"""Base class of tokenizers."""

import abc
import hashlib
from collections.abc import Sequence

import numpy as np

from hc_jax.errors import UserError

# Amount of text, in bytes, for one call of `Tokenizer.encode_batch`.
BATCH_BYTES = 4 << 20


class Tokenizer(abc.ABC):
  """Tokenizer: converts text to token ids and back.

  Attributes:
    name: "bytes", "sentencepiece" or "huggingface".
    spec: argument of `load_tokenizer`.
    path: absolute path of the tokenizer's file, which runs copy; None for bytes.
    vocab_size: number of ids, which are 0 to vocab_size - 1, including `bos_id`.
    bos_id: id that starts every document. `encode` never returns it for text.
    token_bytes: number of bytes of text that each id stands for, [vocab_size] int32; 0 for special
      tokens. The sum over a document's tokens is the document's size. It is exact for bytes and
      byte-level tokenizers, and approximate for a tokenizer that normalises text.
    fingerprint: digest of everything that decides the tokens: the file, and how it is read.
  """

  name: str
  spec: str
  path: str | None
  vocab_size: int
  bos_id: int
  token_bytes: np.ndarray
  fingerprint: str

  def encode(self, text: str) -> np.ndarray:
    """Converts `text` to ids, [N] int32, without bos."""
    return self.encode_batch([text.encode("utf-8", "replace")])[0].astype(np.int32)

  @abc.abstractmethod
  def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
    """Converts UTF-8 documents to integer ids, an array [N] for each, without bos."""

  @abc.abstractmethod
  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Converts ids to text.

    Special tokens give no text. Bytes that are not UTF-8 give the replacement character.

    Raises:
      ValueError: an id is not in the vocabulary.
    """

  def extend(self, prompt: str, ids: Sequence[int] | np.ndarray) -> str:
    """Returns `prompt`, unchanged, followed by the text of `ids`.

    Decodes the ids together with those of the prompt, because many tokenizers drop the space before
    the first token that they decode.
    """
    context = self.encode(prompt)
    before, whole = self.decode(context), self.decode(np.append(context, np.int32(ids)))
    differs = (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b)
    added = whole[next(differs, min(len(before), len(whole))) :]
    # Encoding dropped the prompt's last space, so the ids may bring it again.
    if prompt[-1:].isspace() and not before[-1:].isspace():
      added = added.removeprefix(" ")
    return prompt + added


def read_fingerprint(path: str) -> str:
  """Returns a digest of a tokenizer's file.

  Raises:
    UserError: the file cannot be read.
  """
  try:
    with open(path, "rb") as stream:
      return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
  except OSError as error:
    raise UserError(f"`tokenizer`: cannot read {path}: {error.strerror}") from error


def check_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
  """Returns `ids` as [N] int64.

  Raises:
    ValueError: an id is not in the vocabulary.
  """
  ids = np.asarray(ids, dtype=np.int64).reshape(-1)
  if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
    raise ValueError(f"token ids must be in 0 .. {vocab_size - 1}, got {ids.min()} .. {ids.max()}")
  return ids
