"""What our builders share: a split of text from local files; no TensorFlow, network or noise."""

import abc
import contextlib
import io
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from hc_jax.data import documents
from hc_jax.errors import UserError

Examples = Iterator[tuple[str, dict[str, list[bytes]]]]


class LocalBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """DatasetBuilder of one split "train" with one feature "text".

  An example holds successive documents of one file, 64 KiB or one document of them: TFDS takes
  about 100 us for an example whatever its size, so short records one by one would take minutes.
  """

  # TFDS would look for checksums of downloads beside the code, through a package that not every
  # installation has. There are no downloads.
  code_path = None

  def __init__(self, *, file_format: str = "array_record", **kwargs: Any) -> None:
    """As for any TFDS builder (data_dir, version); array_record needs no TensorFlow."""
    super().__init__(file_format=file_format, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=type(self).__doc__,
      features=tfds.features.FeaturesDict({"text": tfds.features.Sequence(tfds.features.Text())}),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
    del dl_manager  # nothing to download
    return {"train": self._generate_examples()}

  @abc.abstractmethod
  def _files(self) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name, unique, and documents of every file."""

  def _generate_examples(self) -> Examples:
    empty = True
    for name, texts in self._files():
      for index, group in enumerate(_groups(texts)):
        empty = False
        yield f"{name}#{index}", {"text": group}
    if empty:
      raise UserError(documents.EMPTY)

  def prepare(self) -> None:
    """`download_and_prepare` without a progress bar, a print or a question to the network."""
    with _quiet():
      self.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )


def _groups(texts: Iterator[bytes]) -> Iterator[list[bytes]]:
  group, size = [], 0
  for text in texts:
    if group and size + len(text) > documents.MAX_BYTES:
      yield group
      group, size = [], 0
    group.append(text)
    size += len(text)
  if group:
    yield group


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  # TFDS has a switch for its bars, which cannot be asked for its state, and none for its prints.
  from tensorflow_datasets.core.utils import tqdm_utils

  before = getattr(tqdm_utils, "_active", True)
  tqdm_utils.display_progress_bar(False)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tqdm_utils.display_progress_bar(before)
