"""Loading of text as token arrays, which are prepared once and found again by fingerprint."""

import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from hc_jax.data import prepare, sources, store, tfds_source, tokens
from hc_jax.data.settings import check_settings
from hc_jax.data.tokenizers import Tokenizer, load_tokenizer
from hc_jax.errors import UserError

_CARD = "card.json"
# Peak disk use of a preparation: the tokens, and this many copies of the text.
_COPY_FACTOR = 1.0
# Size of text in bytes above which a preparation takes long enough to be announced.
_LONG = 100e6
# A validation split with fewer windows causes a warning.
_FEW_WINDOWS = 8
_FINGERPRINT = re.compile("[0-9a-f]{32}")


@dataclasses.dataclass(frozen=True, eq=False)
class TextData:
  """Prepared text.

  Attributes:
    tokenizer: tokenizer of the tokens.
    fingerprint: hex digest of everything that determines the tokens: paths, sizes, content,
      tokenizer, validation share, builder version.
    train, val: token arrays of the splits.
    folder: folder of the arrays.
    card: content of card.json in that folder.
  """

  tokenizer: Tokenizer
  fingerprint: str
  train: tokens.TokenArray
  val: tokens.TokenArray
  folder: str
  card: dict[str, Any]

  @property
  def num_bytes(self) -> int:
    """Number of bytes of text in train and val."""
    return self.train.num_bytes + self.val.num_bytes

  @property
  def num_documents(self) -> int:
    return self.train.num_documents + self.val.num_documents

  @property
  def num_tokens(self) -> int:
    """Number of tokens in train and val, including one bos per document."""
    return len(self.train) + len(self.val)


def load_text(
  name: str,
  *,
  files: Sequence[str] = (),
  field: str = "text",
  tokenizer: str | Tokenizer = "bytes",
  data_dir: str = "",
  val_fraction: float = 0.02,
  length: int = 0,
  log: Callable[[str], None] = print,
) -> TextData:
  """Opens text as tokens; prepares it first if that was not done or the text has changed.

  Args:
    name: "py_stdlib", "text_files", or the name of a prepared TFDS dataset ("lm1b", "c4/en").
    files: files or folders of "text_files": plain text or code, .jsonl or .parquet, each also as
      .gz or .zst.
    field: name of the field with the text in a record (.jsonl, .parquet, TFDS).
    tokenizer: a tokenizer, or an argument of `load_tokenizer`.
    data_dir: folder of prepared data; "" is $HC_JAX_DATA or ~/.cache/hc_jax.
    val_fraction: share of documents for validation. A TFDS dataset with a validation split uses
      that split instead.
    length: number of tokens in a window. A warning is logged if validation has only a few windows.
    log: called with one line about the text, and with warnings.

  Raises:
    UserError: an argument is wrong, a file cannot be read, there is not enough text, or the disk is
      full.
  """
  files = (files,) if isinstance(files, str) else tuple(files)
  check_settings(val_fraction=val_fraction)
  tokeniser = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
  folder = store.data_folder(data_dir)
  source = _make_source(name, files, field, folder)
  key = _key(source.card, tokeniser, val_fraction)
  found = _open_or_prepare(source, tokeniser, folder, key, val_fraction, log)
  if note := _validation_note(found, length, val_fraction):
    log(f"data: warning: {note}")
  return found


def _open_or_prepare(
  source: sources.Source,
  tokenizer: Tokenizer,
  folder: str,
  key: str,
  val_fraction: float,
  log: Callable[[str], None],
) -> TextData:
  found, _ = _open(folder, key, tokenizer)
  if found is None:
    with store.locked(folder, key, log) as exclusive:
      found, damage = _open(folder, key, tokenizer)  # again: another process may have prepared it
      if found is None:
        if exclusive:
          store.clean(folder, key)
        if damage:
          log(f"data: {damage}; the text is prepared again")
        return _prepare(source, tokenizer, folder, key, val_fraction, log)
  log(f"data: {_summary(found)}, prepared before in {found.folder}")
  return found


def find_text(
  fingerprint: str,
  tokenizer: Tokenizer,
  data_dir: str = "",
  log: Callable[[str], None] = print,
) -> TextData | None:
  """Opens text that was prepared before, by its fingerprint; never prepares or writes anything.

  Args:
    fingerprint: hex digest of the text. It may come from a stranger's run, so its form is checked.
    tokenizer: tokenizer with which the text was prepared.
    data_dir: folder of prepared data; "" is $HC_JAX_DATA or ~/.cache/hc_jax.
    log: called with a line if the prepared text is damaged.

  Returns:
    The text; None if it is missing, damaged, or was prepared with another tokenizer.
  """
  if not _FINGERPRINT.fullmatch(fingerprint):
    return None
  found, damage = _open(store.data_path(data_dir), fingerprint, tokenizer)
  if damage:
    log(f"data: {damage}; the command that trained the run prepares the text again")
  if found is None:
    return None
  key = _key(found.card["source"], tokenizer, found.card["val_fraction"])
  return found if key == fingerprint else None


def _key(source: Any, tokenizer: Tokenizer, val_fraction: float) -> str:
  """Returns the fingerprint of text from a source (given by its card) with a tokenizer."""
  identity = {
    "format": prepare.FORMAT_VERSION,
    "source": source,
    "tokenizer": [tokenizer.name, tokenizer.fingerprint],
    "val_fraction": float(val_fraction),
  }
  return hashlib.blake2b(_json(identity).encode(), digest_size=16).hexdigest()


def _make_source(name: str, files: tuple[str, ...], field: str, folder: str) -> sources.Source:
  if files and name != "text_files":
    raise UserError(
      f"`files` is read by `name=text_files` only, but `name={name}`; change one of the two"
    )
  if name == "py_stdlib":
    return sources.PyStdlib()
  if name == "text_files":
    return sources.TextFiles(files, field)
  return tfds_source.TfdsSource(name, field, tfds_source.tfds_folders(folder))


def _prepare(
  source: sources.Source,
  tokenizer: Tokenizer,
  folder: str,
  key: str,
  val_fraction: float,
  log: Callable[[str], None],
) -> TextData:
  start = time.monotonic()
  token_size = 2 if tokenizer.vocab_size <= 2**16 else 4
  # Text has at most one token per byte. A compressed source may still need more than this.
  store.check_space(folder, int((token_size + _COPY_FACTOR) * source.num_bytes))
  store.remove(folder, key)  # damaged, or absent
  if source.num_bytes > _LONG:
    log(f"data: preparing {source.name} ({source.num_bytes / 1e6:.0f} MB) ...")
  with store.build(folder, key) as temporary:
    copy = os.path.join(temporary, "copy")
    splits = prepare.write_splits(source.open(copy), temporary, tokenizer, val_fraction)
    source.check_unchanged()
    store.remove_tree(copy)
    card = {"name": source.name, "key": key, "tokenizer": tokenizer.name, "splits": splits}
    card |= {"val_fraction": val_fraction, "source": source.card}
    with open(os.path.join(temporary, _CARD), "w", encoding="utf-8") as stream:
      stream.write(_json(card | {"sha256": _digest(card)}))
  found, damage = _open(folder, key, tokenizer)
  if found is None:
    raise UserError(
      f"the disk returned other data than was just written: {damage or folder}; set `data_dir` to "
      "a folder on a sound disk"
    )
  for note in filter(None, (*source.notes, _bytes_note(splits, tokenizer))):
    log(f"data: {note}")
  log(f"data: {_summary(found)}, prepared in {time.monotonic() - start:.1f} s in {found.folder}")
  return found


def _open(folder: str, key: str, tokenizer: Tokenizer) -> tuple[TextData | None, str]:
  """Opens prepared text by its key; returns it or None, and the damage in words, "" if none."""
  path = os.path.join(folder, key)
  try:
    card = _read_card(os.path.join(path, _CARD))
    train, val = (
      tokens.open_array(path, name, card["splits"][name], tokenizer.vocab_size)
      for name in ("train", "val")
    )
  except tokens.Damaged as error:
    return None, str(error) if os.path.isdir(path) else ""
  return TextData(tokenizer, key, train, val, path, card), ""


def _read_card(path: str) -> dict[str, Any]:
  try:
    with open(path, encoding="utf-8") as stream:
      card = json.load(stream)
  except OSError as error:
    raise tokens.Damaged(f"{path} cannot be read: {error.strerror or error}") from error
  except (ValueError, RecursionError) as error:
    raise tokens.Damaged(f"{path} is not JSON") from error
  if not isinstance(card, dict) or "sha256" not in card:
    raise tokens.Damaged(f"{path} is from before prepared text had checksums")
  if card.pop("sha256") != _digest(card):
    raise tokens.Damaged(f"{path} has changed since it was written: its SHA-256 differs")
  return card


def _digest(card: dict[str, Any]) -> str:
  return hashlib.sha256(_json(card).encode()).hexdigest()


def _summary(data: TextData) -> str:
  share = 100 * data.val.num_bytes / max(1, data.num_bytes)
  return (
    f"{data.card['name']}: {data.num_bytes / 1e6:.1f} MB of text, {data.num_documents} documents, "
    f"{len(data.train)} training and {len(data.val)} validation tokens ({share:.1f} %)"
  )


def _validation_note(data: TextData, length: int, val_fraction: float) -> str:
  """Returns a warning if validation has fewer tokens than a few windows; otherwise ""."""
  if len(data.val) >= _FEW_WINDOWS * length:
    return ""
  share = data.val.num_bytes / max(1, data.num_bytes)
  return (
    f"validation holds {len(data.val)} tokens, {len(data.val) / length:.1f} windows of "
    f"`length={length}` ({share:.2%} of the text, `val_fraction={val_fraction:g}`): its loss "
    "says little; give more text, or raise `val_fraction`"
  )


def _bytes_note(splits: dict[str, dict[str, Any]], tokenizer: Tokenizer) -> str:
  """Returns a warning if the tokens' bytes do not add up to the bytes of the text; otherwise ""."""
  counted = sum(split["counted_bytes"] for split in splits.values())
  real = sum(split["num_bytes"] for split in splits.values())
  if abs(counted - real) <= 0.001 * real:
    return ""
  return (
    f"the {tokenizer.name} tokenizer rewrites this text: its tokens stand for {counted} bytes of "
    f"{real}, and bits per byte count by the former ({100 * (counted / real - 1):+.1f} %)"
  )


def _json(value: Any) -> str:
  return json.dumps(value, sort_keys=True)  # in ASCII, because a file name may not be UTF-8
