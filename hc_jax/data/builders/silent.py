"""Runs a TFDS builder without TensorFlow, network, progress bars or prints."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any


def prepare(builder: Any) -> None:
  """Generates the dataset of a `tfds.core.DatasetBuilder` that reads local files only."""
  import tensorflow_datasets as tfds

  config = tfds.download.DownloadConfig(try_download_gcs=False)
  with _quiet():
    builder.download_and_prepare(download_config=config)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  # TFDS has a switch for its bars and none for its two prints.
  from tensorflow_datasets.core.utils import tqdm_utils

  before = tqdm_utils._active
  tqdm_utils.display_progress_bar(False)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tqdm_utils.display_progress_bar(before)
