"""py_stdlib: real text that is present wherever Python is, without network."""

import os
import sysconfig
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from hc_jax.data import files
from hc_jax.data.builders import local

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


class Builder(local.LocalBuilder):
  """The Python standard library's source files, a document per file or 64 KiB of one."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, root: str = "", **kwargs: Any) -> None:
    """`root` as in `find_sources`; the rest as for any TFDS builder (data_dir, version)."""
    self._root = root
    super().__init__(**kwargs)

  def _files(self) -> Iterator[tuple[str, Iterator[bytes]]]:
    for inspected in files.inspect_files(find_sources(self._root)):
      if not inspected.text_error:  # a few sources declare another encoding
        yield inspected.file.name, files.read_documents(inspected.file, "text")
