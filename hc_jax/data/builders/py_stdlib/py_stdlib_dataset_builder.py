"""py_stdlib: real text that is present wherever Python is, without network."""

import os
import sysconfig
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from hc_jax.data import files

# Tests are half of the library's text where they are installed at all (Linux distributions leave
# them out): without them the text is much the same everywhere, and better.
_SKIPPED = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"}


def find_sources(root: str = "") -> list[files.TextFile]:
  """The library's .py files, sorted by name.

  Args:
    root: the folder to search; "" is the standard library of the running Python.
  """
  root = root or sysconfig.get_path("stdlib")
  found = []
  for folder, subfolders, names in os.walk(root):
    subfolders[:] = sorted(s for s in subfolders if s not in _SKIPPED and s[0] != ".")
    for name in sorted(names):
      # _sysconfigdata_*.py spells out how, and in which folders, this Python was compiled.
      if name.endswith(".py") and not name.startswith("_sysconfigdata"):
        path = os.path.join(folder, name)
        found.append(files.TextFile(path, os.path.relpath(path, root).replace(os.sep, "/")))
  return sorted(found, key=lambda file: file.name)


class Builder(tfds.core.GeneratorBasedBuilder):
  """DatasetBuilder of py_stdlib: one split `train`, a document per file or 64 KiB of a file."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Sources without tests, cut at line ends into at most 64 KiB."}

  def __init__(self, *, root: str = "", file_format: str = "array_record", **kwargs: Any) -> None:
    """`root` as in `find_sources`; the rest as for any TFDS builder (data_dir, version)."""
    self._root = root
    super().__init__(file_format=file_format, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="The Python standard library's source files, without its tests.",
      features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
      homepage="https://docs.python.org/3/library/",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing to download
    return {"train": self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[str, dict[str, bytes]]]:
    for inspected in files.inspect_files(find_sources(self._root)):
      if inspected.text_error:  # a few sources declare another encoding
        continue
      for piece, text in enumerate(files.read_documents(inspected.file, "text")):
        yield f"{inspected.file.name}#{piece}", {"text": text}
