"""Byte tokenizer, which needs no file: the ids of text are its UTF-8 bytes."""

from collections.abc import Sequence

import numpy as np

from hc_jax.data.tokenizers import base


class ByteTokenizer(base.Tokenizer):
  """Tokenizer whose ids 0 to 255 are the bytes and whose id 256 is bos."""

  name = "bytes"
  spec = "bytes"
  path = None
  vocab_size = 257
  bos_id = 256
  fingerprint = "bytes-1"

  def __init__(self) -> None:
    self.token_bytes = np.ones(self.vocab_size, np.int32)
    self.token_bytes[self.bos_id] = 0

  def encode(self, text: str) -> np.ndarray:
    # surrogateescape, because a prompt from a shell may contain any bytes
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int32)

  def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(document, np.uint8) for document in documents]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    ids = base.check_ids(ids, self.vocab_size)
    return ids[ids < 256].astype(np.uint8).tobytes().decode("utf-8", "replace")
