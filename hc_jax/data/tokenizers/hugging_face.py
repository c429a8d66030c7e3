"""HF tokenizers (`tokenizer.json`), through the package `tokenizers` alone."""

import json
import re
from collections.abc import Sequence

import numpy as np

from hc_jax.data.tokenizers import base
from hc_jax.errors import UserError

# Names under which vocabularies keep the token that starts, or failing that ends, a document.
_BOS_NAMES = (
  "<s>",
  "<bos>",
  "[BOS]",
  "<|begin_of_text|>",
  "<|startoftext|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "</s>",
  "<eos>",
  "[EOS]",
  "[CLS]",
)
_SPACE = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class HuggingFaceTokenizer(base.Tokenizer):
  """A `tokenizer.json`; bos is the first of the usual names that is special in it, else a new id.

  Padding, truncation and the post-processor's special tokens are switched off, and the names of
  special tokens inside a text are text: no document can forge the start of another.
  """

  name = "huggingface"

  def __init__(self, path: str, spec: str = "") -> None:
    """Opens the file at `path`; raises UserError if that cannot be done."""
    try:
      import tokenizers
    except ImportError as error:
      raise UserError(
        f"data.tokenizer: {path} needs the package tokenizers: pip install tokenizers, or in a "
        "clone of hc_jax pip install -e '.[tokenizers]'"
      ) from error
    self.path, self.spec = path, spec or path
    self.fingerprint = base.read_fingerprint(path)
    try:
      self._model = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the package raises bare Exception
      raise UserError(f"data.tokenizer: {path} is not a tokenizer.json: {error}") from error
    self._model.no_truncation()
    self._model.no_padding()
    self._model.encode_special_tokens = True
    vocab = self._model.get_vocab(with_added_tokens=True)
    added = self._model.get_added_tokens_decoder()
    special = {token.content: i for i, token in added.items() if token.special}
    self._size = max(vocab.values(), default=-1) + 1
    self.bos_id = next((special[name] for name in _BOS_NAMES if name in special), self._size)
    self.vocab_size = max(self._size, self.bos_id + 1)
    self.token_bytes = np.zeros(self.vocab_size, np.int32)
    byte_level = _uses(json.loads(self._model.to_str()), "ByteLevel")
    for token, i in vocab.items():
      if i not in added:
        self.token_bytes[i] = len(token) if byte_level else _token_bytes(token)
      elif not added[i].special:
        self.token_bytes[i] = len(token.encode())

  def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
    texts = [document.decode("utf-8", "replace") for document in documents]
    encoded = self._model.encode_batch_fast(texts, add_special_tokens=False)
    return [np.asarray(encoding.ids, np.int32) for encoding in encoded]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    ids = base.check_ids(ids, self.vocab_size)
    return self._model.decode(ids[ids < self._size].tolist(), skip_special_tokens=True)


def _uses(config: dict, kind: str) -> bool:
  """Whether the pre-tokenizer or the decoder is of that kind, or a sequence that holds one."""
  parts = [config.get("pre_tokenizer"), config.get("decoder")]
  for part in parts:
    if part:
      parts.extend(part.get("pretokenizers", []) + part.get("decoders", []))
  return any(part and part["type"] == kind for part in parts)


def _token_bytes(token: str) -> int:
  if _BYTE_TOKEN.fullmatch(token):
    return 1
  return len(token.removeprefix("##").replace(_SPACE, " ").encode())
