"""Reading of the user's files as one undivided split, to evaluate on."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hc_jax.data import documents, sources
from hc_jax.data.tokenizers.base import BATCH_BYTES, Tokenizer
from hc_jax.data.tokens import TokenArray, token_dtype
from hc_jax.errors import UserError


def read_files(
  entries: Sequence[str],
  tokenizer: Tokenizer,
  *,
  field: str = "text",
  log: Callable[[str], None] = print,
) -> TokenArray:
  """Returns all text of `entries` as tokens, in memory; writes nothing to disk.

  Args:
    entries: files or folders: plain text or code, .jsonl or .parquet, each also as .gz or .zst.
      Duplicates count once.
    tokenizer: tokenizer, whose bos starts every document.
    field: name of the field with the text in a record (.jsonl, .parquet).
    log: called with a line if files in a folder, or records, are skipped because they hold no text.

  Raises:
    UserError: a file does not exist, is damaged or is not text, or no text is left.
  """
  source = sources.TextFiles(entries, field)
  dtype = token_dtype(tokenizer.vocab_size)
  parts, sizes, num_bytes = [], [0], 0
  for batch in _batches(text for _, group in source.read() for text in group):
    for ids in tokenizer.encode_batch(batch):
      parts.append(np.concatenate([[tokenizer.bos_id], ids]).astype(dtype))
      sizes.append(len(parts[-1]))
    num_bytes += sum(map(len, batch))
  for note in source.notes:
    log(note)
  if sum(sizes) <= len(parts):
    raise UserError(documents.EMPTY)
  return TokenArray(np.concatenate(parts), np.cumsum(sizes, dtype=np.int64), num_bytes, "given")


def _batches(texts: Iterator[bytes]) -> Iterator[list[bytes]]:
  """Yields lists of texts of about `BATCH_BYTES`, one for each call of the tokenizer."""
  batch, size = [], 0
  for text in texts:
    batch.append(text)
    size += len(text)
    if size >= BATCH_BYTES:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch
