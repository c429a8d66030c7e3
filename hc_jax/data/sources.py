"""Sources of text: local files in this module, TFDS datasets in `tfds_source`."""

import abc
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hc_jax.data import documents, files, records, spill
from hc_jax.data.left_out import LeftOut
from hc_jax.errors import UserError

# A function; each call returns the documents of a split from the start.
Documents = Callable[[], Iterator[bytes]]

_RECORDS_PER_READ = 64
# Part of the fingerprint; raise it when the same files give other documents.
_TEXT_FILES_VERSION = "1.0.0"


class Source(abc.ABC):
  """Text of one name.

  Attributes:
    name: name as in `load_text`.
    card: JSON values that determine the text: paths, sizes, digests, builder version.
    num_bytes: size of the files before unpacking, to refuse a disk without enough space.
    notes: sentences for the log; complete once the text was read.
  """

  name: str
  card: dict[str, Any]
  num_bytes: int
  notes: list[str]

  def __init__(self) -> None:
    self.notes = []

  @abc.abstractmethod
  def open(self, folder: str) -> dict[str, Documents]:
    """Returns the documents of each split, "train" first; may write temporary files in `folder`."""

  @abc.abstractmethod
  def check_unchanged(self) -> None:
    """Raises UserError if the text changed since the source was created."""


class LocalFiles(Source):
  """Local files, identified by the digests of their content."""

  def __init__(
    self, name: str, version: str, field: str, inspected: Sequence[files.Inspected]
  ) -> None:
    super().__init__()
    self.name = name
    self._inspected = inspected
    self.num_bytes = sum(i.size for i in inspected)
    self.card = {
      "name": name,
      "version": version,
      "field": field,
      "files": [[i.file.name, i.size, i.digest] for i in inspected],
    }

  def check_unchanged(self) -> None:
    for inspected in self._inspected:
      path = inspected.file.path
      try:
        same = files.stat_key(os.stat(path)) == inspected.stat
      except OSError:
        same = False
      if not same:
        raise UserError(f"{path} changed while its text was being prepared; run the command again")


class PyStdlib(LocalFiles):
  """The Python standard library's sources, through their TFDS builder."""

  def __init__(self, root: str = "") -> None:
    """Finds the files; `root` as in `builders.py_stdlib.find_sources`."""
    from hc_jax.data.builders import py_stdlib

    self._make_builder = functools.partial(py_stdlib.Builder, root=root)
    inspected = files.inspect_files(py_stdlib.find_sources(root))
    super().__init__("py_stdlib", str(py_stdlib.Builder.VERSION), "", inspected)

  def open(self, folder: str) -> dict[str, Documents]:
    builder = self._make_builder(data_dir=folder)
    builder.prepare()
    return {"train": lambda: read_source(builder, "train", "text")}


class TextFiles(LocalFiles):
  """The user's files and folders, read directly."""

  def __init__(self, entries: Sequence[str], field: str) -> None:
    """Finds the files; skips files in folders that are not text.

    Args:
      entries: files or folders.
      field: name of the field with the text, in .jsonl and .parquet.

    Raises:
      UserError: as in `files.find_files`, or a file given by name is not text.
    """
    inspected = files.inspect_files(files.find_files(entries))
    for i in inspected:
      if i.text_error and i.file.named:
        raise UserError(
          f"`files`: {i.file.path} is not text: {i.text_error}; convert it (iconv -t utf-8, "
          "gunzip, ...) or leave it out"
        )
    kept = [i for i in inspected if not i.text_error]
    super().__init__("text_files", _TEXT_FILES_VERSION, field, kept)
    self._field = field
    if left := [i.file.name for i in inspected if i.text_error]:
      names = ", ".join(map(ascii, left[:3])) + (", ..." if len(left) > 3 else "")
      self.notes.append(f"left out {len(left)} that are not UTF-8 text: {names}")

  def open(self, folder: str) -> dict[str, Documents]:
    os.mkdir(folder)
    spill.write(folder, self.read(folder))
    return {"train": lambda: spill.read(folder)}

  def read(self, folder: str | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """Yields (key, documents); the documents are of one file, and together have at most 64 KiB.

    Adds the number of records without text to `notes` at the end.

    Args:
      folder: folder for temporary files; None is the system's.

    Raises:
      UserError: as in `records.read_documents`, or no text is left.
    """
    left_out, is_empty = LeftOut(self._field), True
    for index, inspected in enumerate(self._inspected):
      texts = records.read_documents(inspected.file, left_out, folder)
      for number, group in enumerate(spill.groups(texts, documents.MAX_BYTES)):
        is_empty = False
        yield f"{index}#{number}", group
    note = left_out.note()
    self.notes += [note] * bool(note)
    if is_empty and self.notes:
      remedy = f"; {left_out.remedy()}" if note else ""
      raise UserError(f"`files`: no text is left ({'; '.join(self.notes)}){remedy}")
    if is_empty:
      raise UserError(documents.EMPTY)


def read_source(builder: Any, split: str, field: str) -> Iterator[bytes]:
  """Yields the texts of one TFDS split, in order, as UTF-8 bytes, from `as_data_source`.

  Args:
    builder: a prepared `tfds.core.DatasetBuilder`.
    split: name of the split.
    field: name of a feature that is a string or a sequence of strings, each a document.
  """
  source = builder.as_data_source(split=split)
  parse = _plain_parser(builder.info.features, field)
  records = source.data_source if parse else source
  for start in range(0, len(source), _RECORDS_PER_READ):
    keys = range(start, min(start + _RECORDS_PER_READ, len(source)))
    for record in records.__getitems__(list(keys)):
      for text in parse(record) if parse else np.ravel(record[field]):
        yield text.encode() if isinstance(text, str) else bytes(text)


def _plain_parser(features: Any, field: str) -> Callable[[bytes], Iterable[bytes]] | None:
  """Returns a function from a stored record to its strings; None if only TFDS can decode it.

  TFDS's own decoding takes 60 us per record. With short documents that is more than all other work
  of a preparation.
  """
  try:
    from tensorflow_datasets import features as kinds
    from tensorflow_datasets.proto import tf_example_pb2
  except ImportError:
    return None
  feature = features[field]
  if isinstance(feature, kinds.Sequence):
    feature = feature.feature
  if type(feature) is not kinds.Text:
    return None
  parse = tf_example_pb2.Example.FromString
  return lambda record: parse(record).features.feature[field].bytes_list.value
