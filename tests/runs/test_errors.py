"""Every fault of a run's own files is a StorageError: exit code 4, and one line with the file."""

import errno
import os
import shutil

import pytest

from hc_jax import UserError
from hc_jax.runs import manifest, metrics, restore
from hc_jax.runs.errors import storage, storage_cause, writing
from hc_jax.train import StorageError


def fault(number, path=None):
  return OSError(number, os.strerror(number), path)


TENSORSTORE = "Error writing x: Failed to write: {} [os_error_code='{}' source_location='x.cc:1']"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.ESTALE, errno.ENOSPC])
def test_any_fault_of_files_is_known_by_its_number(number):
  words = os.strerror(number)
  assert storage_cause(fault(number)) == words
  assert storage_cause(ValueError(TENSORSTORE.format(words, number))) == words
  try:
    raise RuntimeError("the thread failed") from fault(number)
  except RuntimeError as error:
    assert storage_cause(error) == words
  assert storage_cause(ValueError("another")) is None


def test_writing_names_what_and_storage_names_the_file():
  said = r"^rows could not be written: Input/output error\. Older"
  with pytest.raises(StorageError, match=said), writing("rows"):
    raise fault(errno.EIO)
  said = "^/run/x could not be read or written: Permission denied"
  with pytest.raises(StorageError, match=said), storage("/run"):
    raise fault(errno.EACCES, "/run/x")
  said = "^a file in /run could not be read or written: Input/output error"
  with pytest.raises(StorageError, match=said), storage("/run"):
    raise ValueError(TENSORSTORE.format("Input/output error", errno.EIO))


def test_storage_hides_no_mistake_of_ours_and_no_other_end():
  with pytest.raises(KeyError), storage("/run"):
    try:
      raise fault(errno.ENOENT)
    except OSError:
      {}["a mistake"]
  with pytest.raises(UserError), storage("/run"):
    raise UserError("of the config") from fault(errno.ENOENT)


def rows(folder):
  folder.mkdir()
  found = metrics.Metrics(str(folder), None)
  found.write({"step": 1, "train/loss": 1.0})
  return found


@pytest.mark.parametrize("what", ["deleted", "moved", "replaced", "broken"])
def test_a_workdir_that_is_gone_is_noticed_before_the_next_checkpoint(what, tmp_path, monkeypatch):
  folder = tmp_path / "run"
  with rows(folder) as written:
    written.sync()
    if what == "deleted":
      shutil.rmtree(folder)
    elif what == "moved":
      folder.rename(tmp_path / "elsewhere")
    elif what == "replaced":
      folder.rename(tmp_path / "elsewhere")
      rows(folder).close()
    else:
      monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(fault(errno.EIO)))
    reason = {"replaced": "Stale file handle", "broken": "Input/output"}.get(what, "No such file")
    with pytest.raises(StorageError, match=rf"run/metrics\.jsonl could not be written: {reason}"):
      written.sync()


def test_an_unreadable_folder_of_a_run_is_storage(tmp_path, monkeypatch):
  from hc_jax.runs import workdir

  def unreadable(*_):
    raise fault(errno.EACCES, str(tmp_path / "checkpoints"))

  monkeypatch.setattr(workdir.folders, "check_plain", unreadable)
  said = "checkpoints could not be read or written: Permission denied"
  with pytest.raises(StorageError, match=said), workdir.open_workdir(str(tmp_path / "run"), None):
    pass
  assert os.listdir(tmp_path) == []


def checkpoint(workdir, step):
  folder = workdir / "checkpoints" / str(step)
  for name in ("card/metadata", "params/d/a", "params/_METADATA", "train/d/a", "train/_METADATA"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"numbers")
  manifest.write(str(folder), step)


@pytest.mark.parametrize("where", ["array", "manifest", "folder"])
def test_an_unreadable_checkpoint_is_not_taken_for_a_damaged_one(where, tmp_path, monkeypatch):
  for step in (5, 10):
    checkpoint(tmp_path, step)

  def unreadable(*_, **__):
    raise fault(errno.EACCES, str(tmp_path))

  owner, name = {
    "array": (manifest.hashlib, "file_digest"),
    "manifest": (manifest.os, "lstat"),
    "folder": (restore, "folders_of"),
  }[where]
  with monkeypatch.context() as patch:
    patch.setattr(owner, name, unreadable)
    said = "could not be read or written: Permission denied"
    with pytest.raises(StorageError, match=said), storage(str(tmp_path)):
      restore.restore_newest(str(tmp_path), None, log=lambda line: None)
  assert sorted(os.listdir(tmp_path)) == ["checkpoints"]  # nothing was moved aside
  assert restore.first_good(str(tmp_path), [10, 5]) == (10, {})
