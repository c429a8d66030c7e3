"""py_stdlib: real text that exists wherever Python is installed, without a network."""

import contextlib
import io
import os
import sysconfig
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from hc_jax.data import documents, files, records, spill
from hc_jax.data.left_out import LeftOut
from hc_jax.errors import UserError

Examples = Iterator[tuple[str, dict[str, list[bytes]]]]

# Tests are half of the library's text, but many Linux distributions do not install them. Without
# tests the text is much the same everywhere.
_SKIPPED = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"}


def find_sources(root: str = "") -> list[files.TextFile]:
  """Returns the library's .py files, sorted by name.

  Args:
    root: folder to search; "" is the standard library of the running Python.
  """
  root = root or sysconfig.get_path("stdlib")
  found = []
  for folder, subfolders, names in os.walk(root):
    subfolders[:] = sorted(s for s in subfolders if s not in _SKIPPED and s[0] != ".")
    for name in sorted(names):
      # _sysconfigdata_*.py lists how this Python was compiled, which differs on every machine.
      if name.endswith(".py") and not name.startswith("_sysconfigdata"):
        path = os.path.join(folder, name)
        found.append(files.TextFile(path, os.path.relpath(path, root).replace(os.sep, "/")))
  return sorted(found, key=lambda file: file.name)


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Builder of the Python standard library's source files; a document is a file or 64 KiB of one.

  The dataset has one split "train" with one feature "text". An example has successive documents of
  one file, together at most 64 KiB.
  """

  VERSION = tfds.core.Version("1.0.0")
  # Otherwise TFDS looks for checksums of downloads next to the code, and needs a package for it
  # that not every installation has. This builder downloads nothing.
  code_path = None

  def __init__(self, *, root: str = "", file_format: str = "array_record", **kwargs: Any) -> None:
    """Creates the builder.

    Args:
      root: as in `find_sources`.
      file_format: format of the TFDS files; array_record needs no TensorFlow.
      **kwargs: arguments of any TFDS builder (data_dir, version).
    """
    self._root = root
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

  def _generate_examples(self) -> Examples:
    is_empty = True
    for inspected in files.inspect_files(find_sources(self._root)):
      if inspected.text_error:  # a few sources have another encoding
        continue
      texts = records.read_documents(inspected.file, LeftOut("text"))
      for index, group in enumerate(spill.groups(texts, documents.MAX_BYTES)):
        is_empty = False
        yield f"{inspected.file.name}#{index}", {"text": group}
    if is_empty:
      raise UserError(documents.EMPTY)

  def prepare(self) -> None:
    """Calls `download_and_prepare` without progress bars, prints or use of the network."""
    with _quiet():
      self.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  # TFDS's switch for progress bars has no getter, and its prints have no switch.
  from tensorflow_datasets.core.utils import tqdm_utils

  before = getattr(tqdm_utils, "_active", True)
  tqdm_utils.display_progress_bar(False)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tqdm_utils.display_progress_bar(before)
