import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from hc_jax.data import load_text
from hc_jax.errors import UserError


class SmallText(tfds.core.GeneratorBasedBuilder):
  """Builder with several features, in configs with and without a validation split."""

  VERSION = tfds.core.Version("1.2.0")
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="given"),
    tfds.core.BuilderConfig(name="whole"),
  ]
  code_path = None

  def _info(self):
    features = {
      "text": tfds.features.Text(),
      "title": tfds.features.Tensor(shape=(), dtype=np.str_),
      "lines": tfds.features.Sequence(tfds.features.Text()),
      "id": np.int32,
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    splits = {"train": self._generate_examples(0, 300), "test": self._generate_examples(500, 510)}
    if self.builder_config.name == "given":
      splits["validation"] = self._generate_examples(290, 330)
    return splits

  def _generate_examples(self, start, stop):
    for i in range(start, stop):
      lines = [f"{i} one", f"{i} zwölf"]
      yield i, {"text": f"text {i} é", "title": f"title {i}", "lines": lines, "id": i}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  for config in ("given", "whole"):
    builder = SmallText(config=config, data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
  return folder


@pytest.fixture
def load_named(prepared, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))

  def run(name, **options):
    run.lines = []
    options = {"data_dir": str(tmp_path / "prepared"), "log": run.lines.append} | options
    return load_text(name, **options)

  return run


def test_its_own_validation_is_used_and_not_trained_on(load_named, documents_of):
  data = load_named("small_text/given")
  assert sorted(documents_of(data, data.val)) == sorted(f"text {i} é" for i in range(290, 330))
  assert sorted(documents_of(data, data.train)) == sorted(f"text {i} é" for i in range(290))
  assert "the dataset's own" in load_named.lines[0]


def test_without_validation_the_content_decides_and_test_is_left_alone(load_named, documents_of):
  data = load_named("small_text/whole", val_fraction=0.2)
  train, val = documents_of(data, data.train), documents_of(data, data.val)
  assert sorted(train + val) == sorted(f"text {i} é" for i in range(300))
  assert 30 < len(val) < 90


@pytest.mark.parametrize(
  ("field", "first"), [("text", "text 7 é"), ("title", "title 7"), ("lines", "7 zwölf")]
)
def test_every_kind_of_text_feature(load_named, documents_of, field, first):
  data = load_named("small_text/whole:1.2.0", field=field)
  assert first in documents_of(data, data.train) + documents_of(data, data.val)


def test_data_dir_is_searched_too(load_named, prepared, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
  shutil.copytree(prepared / "small_text" / "given", tmp_path / "prepared" / "small_text" / "given")
  assert load_named("small_text").num_documents == 330  # the only config there
  assert load_named("small_text/given").num_documents == 330


def test_a_rewritten_dataset_is_prepared_again(load_named, prepared):
  first = load_named("small_text/whole").fingerprint
  assert load_named("small_text/whole").fingerprint == first
  (shard,) = (prepared / "small_text" / "whole" / "1.2.0").glob("*train*")
  os.utime(shard, ns=(1, 1))
  assert load_named("small_text/whole").fingerprint != first


@pytest.mark.parametrize(
  "name", ["lm1b", "c4/en", "my_dataset/config:1.0.0", "small_text/whole:9.9.9"]
)
def test_a_missing_dataset_says_where_it_looked_and_how_to_prepare_it(load_named, prepared, name):
  with pytest.raises(UserError) as error:
    load_named(name)
  message = str(error.value)
  assert name in message and str(prepared) in message
  command = f"tfds build {name.partition(':')[0]} --file_format=array_record --data_dir={prepared}"
  assert command in message
  assert "tensorflow apache-beam" in message and "TFDS_DATA_DIR" in message


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("py_stdlb", {}, "did you mean 'py_stdlib'"),
    ("small_text", {}, "small_text/given, small_text/whole; choose one"),
    ("small_text/whole", {"field": "id"}, r"'id' with text.*lines, text, title.*`field`"),
    ("small_text/whole", {"field": "body"}, r"'body' with text.*lines, text, title.*`field`"),
    ("huggingface:x", {}, "is not the name of a dataset"),  # would ask the network
    ("../x", {}, "is not the name of a dataset"),
    ("", {}, "is not the name of a dataset"),
  ],
)
def test_other_mistakes(load_named, name, options, message):
  with pytest.raises(UserError, match=message):
    load_named(name, **options)


@pytest.mark.parametrize("damage", ["format", "info", "shard"])
def test_a_dataset_that_cannot_be_read(load_named, prepared, tmp_path, monkeypatch, damage):
  folder = tmp_path / "tfds" / "small_text" / "whole" / "1.2.0"
  shutil.copytree(prepared / "small_text" / "whole" / "1.2.0", folder)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  info = pathlib.Path(folder / "dataset_info.json")
  if damage == "format":
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
  elif damage == "info":
    info.write_text("{")
  else:
    next(folder.glob("*train*")).unlink()
  with pytest.raises(UserError, match=r"small_text/whole.*(array_record|anew)") as error:
    load_named("small_text/whole")
  assert str(folder) in str(error.value)
