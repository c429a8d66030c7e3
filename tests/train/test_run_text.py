"""The text to analyse a run with is found by its fingerprint, or named by the caller."""

import dataclasses
import json
import os
import shutil
import sys

import numpy as np
import pytest

from hc_jax import UserError, cli, data, train
from tests.train import strangers


@pytest.fixture(scope="module")
def template(tmp_path_factory):
  made = tmp_path_factory.mktemp("stranger") / "run"
  strangers.make(made)
  return made


@pytest.fixture(scope="module")
def opened(template):
  return train.load_run(str(template))


@pytest.fixture
def home(tmp_path, monkeypatch):
  """Sets the caller's folder of prepared data, and writes a text to prepare there."""
  monkeypatch.setenv("HC_JAX_DATA", str(tmp_path / "data"))
  (tmp_path / "notes.txt").write_text("a line of mine\n" * 500)
  return tmp_path


def prepared(home, **options):
  options = {"data_dir": str(home / "data"), "val_fraction": 0.5, **options}
  (home / "more.txt").write_text("another line of mine\n" * 500)
  files = [str(home / "notes.txt"), str(home / "more.txt")]
  return data.load_text("text_files", files=files, log=lambda _: None, **options)


def changed(opened, fingerprint="0" * 32, **values):
  """Returns the run with another fingerprint on its card and other values in its config."""
  config = opened.config.copy_and_resolve_references()
  with config.unlocked():
    config.data.update(values)
  card = opened.card | {"data": opened.card["data"] | {"fingerprint": fingerprint}}
  return dataclasses.replace(opened, config=config, card=card)


def test_text_is_found_by_its_fingerprint(opened, home, monkeypatch):
  """The config names other files, and the text's own files are gone."""
  text = prepared(home)
  (home / "notes.txt").unlink()
  mine = changed(opened, text.fingerprint, name="text_files", files=("/etc/passwd",), dir="/")
  monkeypatch.setattr(data, "load_text", None)  # nothing is prepared
  found, words = train.run_tokens(mine)
  np.testing.assert_array_equal(found.tokens, text.val.tokens)
  assert words == "the val split of text_files"
  found, _ = train.run_tokens(mine, split="train", data_dir=str(home / "data"))
  np.testing.assert_array_equal(found.tokens, text.train.tokens)
  with pytest.raises(UserError, match=r"is not prepared in .*/elsewhere; .*`data_dir`.*`files`"):
    train.run_tokens(mine, data_dir=str(home / "elsewhere"))
  assert not (home / "elsewhere").exists()


@pytest.mark.parametrize("fingerprint", ["../x", "", "0" * 31, "0" * 32, "\x1b[31m", "A" * 32])
def test_a_fingerprint_is_a_name_and_no_path(opened, home, fingerprint):
  prepared(home)
  with pytest.raises(UserError, match="is not prepared in"):
    train.run_tokens(changed(opened, fingerprint, name="text_files"))


def test_text_that_was_prepared_for_another_tokenizer_is_not_the_runs(opened, home):
  text = prepared(home)
  other = data.load_tokenizer("bytes")
  other.fingerprint = "another"
  mine = dataclasses.replace(changed(opened, text.fingerprint, name="text_files"), tokenizer=other)
  with pytest.raises(UserError, match="is not prepared in"):
    train.run_tokens(mine)


# Requests of a stranger's config that must never be followed.
ASKED = {
  "my files": {"name": "text_files", "files": ("notes.txt",), "dir": "run"},
  "a folder anywhere": {"name": "text_files", "files": ("notes.txt",), "dir": "new/folder"},
  "a data set in the run": {"name": "evil", "dir": "run"},
  "the built-in source, elsewhere": {"name": "py_stdlib", "dir": "new/folder"},
}


@pytest.mark.parametrize("values", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("command", [["eval"], ["analyze"], ["eval", "--split=train"]])
def test_data_that_a_run_names_is_not_read(template, home, monkeypatch, capsys, values, command):
  run = shutil.copytree(template, home / "run")
  values = values | {key: str(home / values[key]) for key in ("dir",)}
  if "files" in values:
    values["files"] = [str(home / name) for name in values["files"]]
  strangers.edit(run / "config.json", lambda saved: saved["config"]["data"].update(values))
  plant_data_set(run / "evil" / "1.0.0")
  monkeypatch.chdir(run)
  monkeypatch.syspath_prepend(str(run))
  if values["name"] == "py_stdlib":
    monkeypatch.setattr(data, "load_text", asked_of(home / "data"))
  before = strangers.snapshot(home)
  assert cli.main([*command, "."]) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert "--files" in error
  after = strangers.snapshot(home)
  after = {name: kind for name, kind in after.items() if not name.endswith("/analysis")}
  assert after == before and "evil_module" not in sys.modules


def plant_data_set(folder):
  """Writes a TFDS data set whose description names a module, and that module."""
  folder.mkdir(parents=True)
  (folder / "dataset_info.json").write_text(json.dumps({"name": "evil", "version": "1.0.0"}))
  (folder / "features.json").write_text(json.dumps({"pythonClassName": "evil_module.Feature"}))
  (folder.parents[1] / "evil_module.py").write_text("raise SystemExit('executed')")


def asked_of(folder):
  """Returns a `load_text` that prepares nothing and returns another text."""

  def load_text(name, *, data_dir, tokenizer, **_):
    assert (name, data_dir, tokenizer) == ("py_stdlib", "", "bytes")
    assert data.data_path(data_dir) == str(folder)
    return data.TextData(None, "f" * 32, None, None, "", {})

  return load_text


def test_a_file_that_the_caller_names_is_read(opened, home):
  found, words = train.run_tokens(opened, files=[str(home / "notes.txt")], log=lambda _: None)
  assert found.num_bytes == os.path.getsize(home / "notes.txt")
  assert words == str(home / "notes.txt")
