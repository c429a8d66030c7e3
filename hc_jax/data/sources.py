"""Where text comes from: one small class for our own builders, one for any TFDS dataset."""

import abc
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hc_jax.data import files
from hc_jax.errors import UserError

# A function that gives a split's documents from the start, each time it is called.
Documents = Callable[[], Iterator[bytes]]

_RECORDS_PER_READ = 64


class Source(abc.ABC):
  """Text of one name.

  Attributes:
    name: as in data.name.
    card: JSON-able; what decides the text: paths, sizes, content, builder version.
    num_bytes: size of the text on disk (before unpacking), to foresee a full disk.
    notes: what the user should know, for the log.
  """

  name: str
  card: dict[str, Any]
  num_bytes: int
  notes: str = ""

  @abc.abstractmethod
  def open(self, folder: str) -> dict[str, Documents]:
    """The documents of each split the source has, "train" first; may write below `folder`."""

  @abc.abstractmethod
  def check_unchanged(self) -> None:
    """Raises UserError if the text changed since the source was made."""


@dataclasses.dataclass
class LocalSource(Source):
  """Local files through one of our TFDS builders."""

  name: str
  inspected: Sequence[files.Inspected]
  make_builder: Callable[[str], Any]  # data_dir -> builders.local.LocalBuilder
  version: str
  field: str = ""
  notes: str = ""

  def __post_init__(self) -> None:
    self.num_bytes = sum(i.size for i in self.inspected)
    self.card = {
      "name": self.name,
      "version": self.version,
      "field": self.field,
      "files": [[i.file.name, i.size, i.digest] for i in self.inspected],
    }

  def open(self, folder: str) -> dict[str, Documents]:
    builder = self.make_builder(folder)
    builder.prepare()
    return {"train": lambda: read_source(builder, "train", "text")}

  def check_unchanged(self) -> None:
    for inspected in self.inspected:
      path = inspected.file.path
      try:
        same = files.stat_key(os.stat(path)) == inspected.stat
      except OSError:
        same = False
      if not same:
        raise UserError(f"{path} changed while its text was being prepared; run the command again")


def py_stdlib(root: str = "") -> LocalSource:
  """The Python standard library's sources; `root` as in `builders.py_stdlib.find_sources`."""
  from hc_jax.data.builders import py_stdlib as package

  inspected = files.inspect_files(package.find_sources(root))
  return LocalSource(
    name="py_stdlib",
    inspected=inspected,
    make_builder=lambda data_dir: package.Builder(root=root, data_dir=data_dir),
    version=str(package.Builder.VERSION),
  )


def text_files(entries: Sequence[str], field: str) -> LocalSource:
  """The user's files and folders; a file in a folder that is no text is left out, and said.

  Raises:
    UserError: as `files.find_files`; a file given by name is no text.
  """
  from hc_jax.data.builders import text_files as package

  inspected = files.inspect_files(files.find_files(entries))
  for i in inspected:
    if i.text_error and i.file.named:
      raise UserError(
        f"data.files: {i.file.path} is not text: {i.text_error}; convert it (iconv -t utf-8, "
        "gunzip, ...) or leave it out"
      )
  kept = [i for i in inspected if not i.text_error]
  left = [i.file.name for i in inspected if i.text_error]
  names = ", ".join(map(ascii, left[:3])) + (", ..." if len(left) > 3 else "")
  return LocalSource(
    name="text_files",
    inspected=kept,
    make_builder=lambda data_dir: package.Builder(
      text_files=[i.file for i in kept], field=field, data_dir=data_dir
    ),
    version=str(package.Builder.VERSION),
    field=field,
    notes=f"left out {len(left)} that are not UTF-8 text: {names}" if left else "",
  )


def read_source(builder: Any, split: str, field: str) -> Iterator[bytes]:
  """The texts of one split, in order, as UTF-8 bytes, through `as_data_source`.

  Args:
    builder: a prepared `tfds.core.DatasetBuilder`.
    split: its split.
    field: a feature that is a string or a sequence of strings, each a document.
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
  """Takes strings out of a record as it is stored; None where only TFDS's own decoding will do.

  TFDS's decoding takes 60 us a record, more than all else here together when documents are short.
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
