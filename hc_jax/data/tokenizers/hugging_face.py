"""HF tokenizers (`tokenizer.json`), read by the package `tokenizers`, without transformers."""

import json
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from hc_jax.data.tokenizers import base
from hc_jax.errors import UserError

# Usual names of the token that starts a document, followed by those of the token that ends one.
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
  """Tokenizer of a `tokenizer.json`; bos is its first special token with a usual name, or a new id.

  Padding, truncation and the post-processor's special tokens are switched off. Names of special
  tokens inside a text are text, so that no document can forge the start of another.
  """

  name = "huggingface"

  def __init__(self, path: str, spec: str = "") -> None:
    """Opens the file at `path`; raises UserError if that cannot be done."""
    try:
      import tokenizers
    except ImportError as error:
      raise UserError(
        f"`tokenizer`: {path} needs the package tokenizers: pip install tokenizers, or in a "
        "clone of hc_jax pip install -e '.[tokenizers]'"
      ) from error
    self.path, self.spec = path, spec or path
    self.fingerprint = base.read_fingerprint(path)
    try:
      self._model = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the package raises bare Exception
      raise UserError(f"`tokenizer`: {path} is not a tokenizer.json: {error}") from error
    vocab = self._model.get_vocab(with_added_tokens=True)
    added = self._model.get_added_tokens_decoder()
    special = {token.content: i for i, token in added.items() if token.special}
    config = json.loads(self._model.to_str())
    self._size = max(vocab.values(), default=-1) + 1
    self.bos_id = next((special[name] for name in _BOS_NAMES if name in special), self._size)
    self.vocab_size = max(self._size, self.bos_id + 1)
    self.token_bytes = np.zeros(self.vocab_size, np.int32)
    byte_level = _uses(config, "ByteLevel")
    for token, i in vocab.items():
      if i not in added:
        self.token_bytes[i] = len(token) if byte_level else _token_bytes(token)
      elif not added[i].special:
        self.token_bytes[i] = len(token.encode())
    self._take_names_as_text(config, special)

  def _take_names_as_text(self, config: dict[str, Any], special: dict[str, int]) -> None:
    """Makes names of special tokens text, even if the model also has them as pieces of text.

    A Unigram model would otherwise find the special token. If this changes tokens, it changes the
    fingerprint, because text prepared by an earlier version may contain false special tokens.
    """
    models = [self._model]
    pieces = {piece for piece, _ in _items(config["model"]["vocab"])}
    names = [name for name in special if name in pieces]
    if names:
      try:
        self._model = type(self._model).from_str(json.dumps(_hide(config, names)))
      except Exception as error:  # the package raises bare Exception
        raise UserError(
          f"`tokenizer`: {self.path} does not distinguish its special tokens from text: {error}; "
          "choose another tokenizer"
        ) from error
      models.append(self._model)
    for model in models:
      model.no_truncation()
      model.no_padding()
      model.encode_special_tokens = True
    probes = [text for name in names for text in (name, f" {name} ", f"a{name}a")]
    if _encode(models[0], probes) != _encode(models[-1], probes):
      self.fingerprint += "-names-are-text"

  def encode_batch(self, documents: Sequence[bytes]) -> list[np.ndarray]:
    texts = [document.decode("utf-8", "replace") for document in documents]
    return [np.asarray(ids, np.int32) for ids in _encode(self._model, texts)]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    ids = base.check_ids(ids, self.vocab_size)
    return self._model.decode(ids[ids < self._size].tolist(), skip_special_tokens=True)


def _hide(config: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
  """Returns the config with random names for special tokens, which no text contains; ids stay."""
  secret = secrets.token_hex(8)
  hidden = {name: f"{secret}-{i}" for i, name in enumerate(names)}
  added = [t | {"content": hidden.get(t["content"], t["content"])} for t in config["added_tokens"]]
  model = dict(config["model"])
  vocab = [(hidden.get(piece, piece), value) for piece, value in _items(model["vocab"])]
  model["vocab"] = dict(vocab) if isinstance(model["vocab"], dict) else vocab
  if "unk_token" in model:
    model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
  if "merges" in model:
    model["merges"] = [m for m in model["merges"] if not hidden.keys() & {*m, "".join(m)}]
  return config | {"added_tokens": added, "model": model, "post_processor": None}


def _items(vocab: dict[str, int] | list[list[Any]]) -> Iterable[tuple[str, Any]]:
  """Returns the pieces, each with its id, or with its score in a Unigram model."""
  return vocab.items() if isinstance(vocab, dict) else map(tuple, vocab)


def _encode(model: Any, texts: list[str]) -> list[list[int]]:
  return [e.ids for e in model.encode_batch_fast(texts, add_special_tokens=False)]


def _uses(config: dict, kind: str) -> bool:
  """Returns whether the pre-tokenizer or the decoder is, or contains, one of that kind."""
  parts = [config.get("pre_tokenizer"), config.get("decoder")]
  for part in parts:
    if part:
      parts.extend(part.get("pretokenizers", []) + part.get("decoders", []))
  return any(part and part["type"] == kind for part in parts)


def _token_bytes(token: str) -> int:
  if _BYTE_TOKEN.fullmatch(token):
    return 1
  return len(token.removeprefix("##").replace(_SPACE, " ").encode())
