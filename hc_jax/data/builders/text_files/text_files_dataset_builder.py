"""text_files: the user's own files or folders, plain, .jsonl or .parquet, also gzipped."""

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from hc_jax.data import files
from hc_jax.data.builders import local


class Builder(local.LocalBuilder):
  """Text of the user's own files, a document per record or 64 KiB of a file."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self, *, text_files: Sequence[files.TextFile] = (), field: str = "text", **kwargs: Any
  ) -> None:
    """Makes the builder.

    Args:
      text_files: what to read, from `hc_jax.data.files.find_files`.
      field: the field of .jsonl and .parquet records that holds the text.
      **kwargs: as for any TFDS builder (data_dir, version).
    """
    self._text_files = tuple(text_files)
    self._field = field
    super().__init__(**kwargs)

  def _files(self) -> Iterator[tuple[str, Iterator[bytes]]]:
    for index, file in enumerate(self._text_files):
      yield str(index), files.read_documents(file, self._field)
