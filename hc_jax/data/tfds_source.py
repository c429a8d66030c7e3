"""Text from any prepared dataset of TensorFlow Datasets, read without TensorFlow."""

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hc_jax.data.sources import Documents, Source, read_source
from hc_jax.errors import UserError
from hc_jax.nearest import nearest

# The names that TFDS accepts, without namespaces ("huggingface:x"), which would use the network.
_NAME = re.compile(
  r"(?P<dataset>[A-Za-z]\w*)(/(?P<config>[\w.\-]+))?(:(?P<version>\d+\.\d+\.\d+))?"
)
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class TfdsSource(Source):
  """Prepared TFDS dataset: its split "train", and its split "validation" if it has one.

  A dataset without "validation" is divided by content, as local text is. The split "test" is never
  read.
  """

  def __init__(self, name: str, field: str, folders: Sequence[str]) -> None:
    """Finds the dataset below one of `folders`.

    Args:
      name: "dataset" or "dataset/config", with or without a version ":1.0.0".
      field: name of the feature with the text.
      folders: TFDS data folders, in order of preference.

    Raises:
      UserError: no folder has such a dataset, its format needs TensorFlow, or `field` has no text.
    """
    super().__init__()
    self.name, self._field = name, field
    self._builder = _find(name, folders)
    info = self._builder.info
    _check_field(name, info, field)
    if "train" not in info.splits:
      raise UserError(f"`name={name}`: no split 'train', only {', '.join(info.splits)}")
    self._splits = {"train": "train"}
    if "validation" in info.splits:
      self._splits["val"] = "validation"
      self.notes.append("validation is the dataset's own")
    self._check_format(folders)
    self.num_bytes = sum(info.splits[split].num_bytes for split in self._splits.values())
    self.card = {
      "name": info.full_name,
      "field": field,
      "splits": self._splits,
      "files": self._files(),
    }

  def _check_format(self, folders: Sequence[str]) -> None:
    info = self._builder.info
    for split in self._splits.values():
      for path in info.splits[split].filepaths:
        if not os.path.isfile(path):
          raise UserError(f"`name={self.name}`: {path} is missing; prepare the dataset anew")
    try:
      for split in self._splits.values():
        self._builder.as_data_source(split=split)
    except (NotImplementedError, ValueError, ImportError, OSError) as error:
      raise UserError(
        f"`name={self.name}`: {self._builder.data_dir} cannot be read without TensorFlow "
        f"({info.file_format}): {str(error).splitlines()[0]}. "
        f"Move it away and prepare it as array_record:\n{_recipe(self.name, folders[0])}"
      ) from error

  def _files(self) -> list[list[Any]]:
    """Returns names, sizes and times of the shards, and the content of the JSON descriptions.

    These stand for the content of the dataset, which may have terabytes and is not read. TFDS never
    edits a prepared dataset in place, and the descriptions count the records of every shard.
    """
    found = []
    for entry in sorted(os.scandir(self._builder.data_dir), key=lambda e: e.name):
      if entry.name.endswith(".json"):
        with open(entry.path, "rb") as stream:
          found.append([entry.name, hashlib.blake2b(stream.read(), digest_size=16).hexdigest()])
      else:
        found.append([entry.name, entry.stat().st_size, entry.stat().st_mtime_ns])
    return found

  def open(self, folder: str) -> dict[str, Documents]:
    del folder  # no temporary files are needed
    return {
      ours: lambda split=theirs: read_source(self._builder, split, self._field)
      for ours, theirs in self._splits.items()
    }

  def check_unchanged(self) -> None:
    if self._files() != self.card["files"]:
      raise UserError(f"{self._builder.data_dir} changed while it was being read; run it again")


def tfds_folders(data_dir: str) -> list[str]:
  """Returns the folders to search: $TFDS_DATA_DIR or ~/tensorflow_datasets, then `data_dir`."""
  standard = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
  folders = [os.path.abspath(os.path.expanduser(folder)) for folder in (standard, data_dir)]
  return list(dict.fromkeys(folders))


def _find(name: str, folders: Sequence[str]) -> Any:
  """Returns the builder of a dataset's files, from the first folder that has them.

  Never imports the dataset's own code, which needs TensorFlow for most public datasets.
  """
  import tensorflow_datasets as tfds

  match = _NAME.fullmatch(name)
  if not match:
    raise UserError(
      f"`name={name!r}` is not the name of a dataset: 'py_stdlib', 'text_files', or that of a "
      "prepared TFDS dataset, like 'lm1b', 'c4/en' or 'my_dataset/config:1.0.0'"
    )
  configs: list[str] = []
  for folder in folders:
    path = os.path.join(folder, match["dataset"])
    found = _version_folder(os.path.join(path, match["config"] or ""), match["version"])
    if not found and not match["config"]:
      here = [c for c in _subfolders(path) if _version_folder(os.path.join(path, c), None)]
      if len(here) == 1:
        found = _version_folder(os.path.join(path, here[0]), match["version"])
      configs += here
    if found:
      try:
        return tfds.builder_from_directory(found)
      except Exception as error:  # a damaged description can make TFDS raise anything
        raise UserError(f"`name={name}`: {found} is damaged ({error}); prepare it anew") from error
  if configs:
    names = ", ".join(f"{match['dataset']}/{config}" for config in configs)
    raise UserError(f"`name={name}` is prepared as {names}; choose one")
  raise UserError(
    f"`name={name}`: no prepared TFDS dataset of that name in {' or '.join(folders)}"
    f"{_near(name)}. A dataset of TFDS is prepared once by\n{_recipe(name, folders[0])}"
  )


def _subfolders(path: str) -> list[str]:
  return sorted(e.name for e in os.scandir(path) if e.is_dir()) if os.path.isdir(path) else []


def _version_folder(path: str, version: str | None) -> str | None:
  """Returns the folder of a version (None is the newest) that TFDS finished preparing, or None."""
  versions = [v for v in _subfolders(path) if _VERSION.fullmatch(v)]
  versions = [v for v in versions if os.path.isfile(os.path.join(path, v, "dataset_info.json"))]
  if version:
    versions = [v for v in versions if v == version]
  newest = max(versions, key=lambda v: [int(part) for part in v.split(".")], default=None)
  return newest and os.path.join(path, newest)


def _near(name: str) -> str:
  near = nearest(name, ("py_stdlib", "text_files"))
  return f" (did you mean {near!r}?)" if near else ""


def _recipe(name: str, folder: str) -> str:
  return (
    f"  tfds build {name.partition(':')[0]} --file_format=array_record --data_dir={folder}\n"
    "in an environment of its own (pip install tensorflow-datasets tensorflow apache-beam: "
    "preparing most public datasets needs TensorFlow, large ones Beam; hc_jax reads the result "
    "without either). If it lies elsewhere, set TFDS_DATA_DIR."
  )


def _check_field(name: str, info: Any, field: str) -> None:
  features = info.features
  texts = sorted(key for key in features if _is_text(features[key]))
  if field not in texts:
    raise UserError(
      f"`name={name}`: no feature {field!r} with text; those that hold text: "
      f"{', '.join(texts) or 'none'}; set `field`"
    )


def _is_text(feature: Any) -> bool:
  """Returns whether a feature is a string or a sequence of strings."""
  shape, dtype = getattr(feature, "shape", None), getattr(feature, "np_dtype", None)
  return shape in ((), (None,)) and dtype in (np.object_, np.str_, np.bytes_)
