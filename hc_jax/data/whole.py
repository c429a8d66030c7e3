"""The user's files as one split, undivided: text to evaluate on."""

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
  """All text of `entries` as tokens, in memory; nothing is divided, prepared or kept.

  Args:
    entries: files or folders: plain text or code, .jsonl, .parquet, each also as .gz or .zst. What
      is given twice counts once.
    tokenizer: gives the ids; its bos starts every document.
    field: the field of a record (.jsonl, .parquet) that holds the text.
    log: gets a line where files in a folder, or records, are left out since they hold no text.

  Raises:
    UserError: no such file, a file that is not text or is damaged, or no text at all.
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
  """Yields texts in the amounts that a tokenizer is given at a time."""
  batch, size = [], 0
  for text in texts:
    batch.append(text)
    size += len(text)
    if size >= BATCH_BYTES:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch
