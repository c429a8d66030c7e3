"""text_files: the user's own files or folders, plain, .jsonl or .parquet, also gzipped."""

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds

from hc_jax.data import files


class Builder(tfds.core.GeneratorBasedBuilder):
  """DatasetBuilder of text_files: one split `train`, a document per record or 64 KiB of a file."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Plain text, .jsonl and .parquet, cut at line ends into 64 KiB."}

  def __init__(
    self,
    *,
    text_files: Sequence[files.TextFile] = (),
    field: str = "text",
    file_format: str = "array_record",
    **kwargs: Any,
  ) -> None:
    """Makes the builder.

    Args:
      text_files: what to read, from `hc_jax.data.files.find_files`.
      field: the field of .jsonl and .parquet records that holds the text.
      file_format: TFDS file format; array_record needs no TensorFlow.
      **kwargs: as for any TFDS builder (data_dir, version).
    """
    self._text_files = tuple(text_files)
    self._field = field
    super().__init__(file_format=file_format, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Text of the user's own files.",
      features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing to download
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, bytes]]]:
    for index, file in enumerate(self._text_files):
      for piece, text in enumerate(files.read_documents(file, self._field)):
        yield f"{index}#{piece}", {"text": text}
