"""SentencePiece models (`*.model`)."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from hc_jax.data.tokenizers import base
from hc_jax.errors import UserError

_SPACE = "\u2581"  # SentencePiece's visible space


class SentencePieceTokenizer(base.Tokenizer):
  """Tokenizer of a SentencePiece model; bos is its bos, else its eos, else a new id at the end."""

  name = "sentencepiece"

  def __init__(self, path: str, spec: str = "") -> None:
    """Opens the model at `path`; raises UserError if that cannot be done."""
    try:
      import sentencepiece
    except ImportError as error:
      raise UserError(
        f"`tokenizer`: {path} needs the package sentencepiece: pip install sentencepiece, or "
        "in a clone of hc_jax pip install -e '.[tokenizers]'"
      ) from error
    self.path, self.spec = path, spec or path
    self.fingerprint = base.read_fingerprint(path)
    try:
      self._model = sentencepiece.SentencePieceProcessor(model_file=path)
      pieces = self._model.get_piece_size()
    except (RuntimeError, OSError, ValueError) as error:
      raise UserError(f"`tokenizer`: {path} is not a SentencePiece model: {error}") from error
    specials = [i for i in (self._model.bos_id(), self._model.eos_id()) if i >= 0]
    self.bos_id = specials[0] if specials else pieces
    self.vocab_size = max(pieces, self.bos_id + 1)
    self._pieces = pieces
    self.token_bytes = np.zeros(self.vocab_size, np.int32)
    self.token_bytes[:pieces] = [_piece_bytes(self._model, i) for i in range(pieces)]

  def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
    texts = [document.decode("utf-8", "replace") for document in documents]
    encoded = self._model.encode(texts, num_threads=os.cpu_count() or 1)
    return [np.asarray(ids, np.int32) for ids in encoded]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    ids = base.check_ids(ids, self.vocab_size)
    return self._model.decode(ids[ids < self._pieces].tolist())


def _piece_bytes(model: Any, piece_id: int) -> int:
  if model.is_control(piece_id) or model.is_unknown(piece_id) or model.is_unused(piece_id):
    return 0
  if model.is_byte(piece_id):
    return 1
  return len(model.id_to_piece(piece_id).replace(_SPACE, " ").encode())
