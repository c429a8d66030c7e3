"""Tokenizers: bytes, SentencePiece and HF `tokenizer.json`, behind one small class."""

import os

from hc_jax.data.tokenizers.base import Tokenizer
from hc_jax.data.tokenizers.byte_level import ByteTokenizer
from hc_jax.data.tokenizers.hugging_face import HuggingFaceTokenizer
from hc_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer
from hc_jax.errors import UserError

__all__ = [
  "ByteTokenizer",
  "HuggingFaceTokenizer",
  "SentencePieceTokenizer",
  "Tokenizer",
  "load_tokenizer",
]


def load_tokenizer(tokenizer: str = "bytes") -> Tokenizer:
  """Opens a tokenizer.

  Args:
    tokenizer: "bytes", or the path of a SentencePiece `*.model` or of an HF `tokenizer.json`.

  Raises:
    UserError: `tokenizer` is neither, its file is missing or damaged, or a package that reads it is
      not installed.
  """
  if tokenizer == "bytes":
    return ByteTokenizer()
  path = os.path.abspath(os.path.expanduser(tokenizer))
  kind = {".model": SentencePieceTokenizer, ".json": HuggingFaceTokenizer}.get(
    os.path.splitext(path)[1]
  )
  if kind is None:
    raise UserError(
      f"`tokenizer={tokenizer!r}` is neither 'bytes' nor the path of a SentencePiece *.model "
      "or of an HF tokenizer.json"
    )
  if not os.path.isfile(path):
    raise UserError(f"`tokenizer`: no file {path}; give the path of an existing file, or 'bytes'")
  return kind(path, tokenizer)
