"""Preparation of data under other processes, kills, and faulty or full disks."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from hc_jax import exclusive
from hc_jax.data import store
from hc_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]

LOAD = """
  import hashlib, os, sys, time
  from hc_jax.data import load_text, prepare
  from hc_jax.errors import UserError

  def load(log=print):
    data = load_text("text_files", files=[sys.argv[1]], data_dir=sys.argv[2], log=log)
    print(data.fingerprint, hashlib.md5(data.train.tokens.tobytes()).hexdigest(), flush=True)
"""


def start(code, *args):
  code = textwrap.dedent(LOAD) + textwrap.dedent(code)
  return subprocess.Popen(
    [sys.executable, "-c", code, *map(str, args)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  return out


@pytest.fixture
def folder(tmp_path, make_lines):
  (tmp_path / "a.txt").write_text(make_lines(300_000))
  (tmp_path / "prepared").mkdir()
  return tmp_path


def complete(prepared):
  return [path for path in prepared.iterdir() if path.is_dir() and path.name[0] != "."]


def temporary(prepared):
  return list(prepared.glob(".tmp-*"))


def test_kill_in_the_middle_leaves_nothing_that_is_taken_as_whole(folder, load):
  prepared = folder / "prepared"
  code = """
    write = prepare.write_splits
    def stop(*args):
      result = write(*args)  # all tokens are written, the rename is still to come
      print("written", flush=True)
      time.sleep(100)
    prepare.write_splits = stop
    load()
  """
  process = start(code, folder / "a.txt", prepared)
  assert process.stdout.readline() == "written\n"
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not complete(prepared) and len(temporary(prepared)) == 1
  data = load(folder / "a.txt")
  assert "prepared in" in load.lines[-1]
  assert complete(prepared) == [pathlib.Path(data.folder)]
  assert not temporary(prepared)
  assert not (pathlib.Path(data.folder) / "copy").exists()


@pytest.mark.slow
def test_two_processes_at_once_prepare_once(folder):
  code = """
    write = prepare.write_splits
    def slowly(*args):
      time.sleep(0.5)
      return write(*args)
    prepare.write_splits = slowly
    open(sys.argv[3], "w").close()
    while not all(map(os.path.exists, sys.argv[3:])):
      time.sleep(0.01)
    load()
  """
  marks = [folder / "1", folder / "2"]
  processes = [start(code, folder / "a.txt", folder / "prepared", *m) for m in (marks, marks[::-1])]
  outputs = [finish(process) for process in processes]
  assert len({output.splitlines()[-1] for output in outputs}) == 1
  assert sorted("prepared before" in output for output in outputs) == [False, True]
  assert sum("waiting for another process" in output for output in outputs) == 1
  assert len(complete(folder / "prepared")) == 1 and not temporary(folder / "prepared")


def test_a_full_disk_in_the_middle(folder):
  # A limit on file sizes imitates the full disk. The copy of the text exceeds the first limit, the
  # tokens exceed the second.
  code = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in (10_000, 400_000):
      resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
      try:
        load(log=lambda line: None)
      except UserError as error:
        print(error)
      print([n for n in os.listdir(sys.argv[2]) if not n.endswith(".lock")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    load()
  """
  lines = finish(start(code, folder / "a.txt", folder / "prepared")).splitlines()
  for message, left in (lines[0:2], lines[2:4]):
    assert "disk" in message and "full" in message and "`data_dir`" in message
    assert left == "[]"
  assert "prepared in" in lines[4]


def test_too_little_space_is_said_before_the_work(load, folder, monkeypatch):
  usage = type("Usage", (), {"free": 1000})
  monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
  with pytest.raises(UserError, match=r"is full.*0\.0 MB free.*0\.9 MB needed.*`data_dir`"):
    load(folder / "a.txt")


@pytest.mark.parametrize(
  ("number", "message"),
  [(errno.ENOSPC, "is full"), (errno.EROFS, "cannot write"), (errno.EACCES, "cannot write")],
)
def test_errors_of_the_disk_are_user_errors(tmp_path, number, message):
  with (
    pytest.raises(UserError, match=rf"{message}.*`data_dir`"),
    store.locked(str(tmp_path), "k", print),
    store.build(str(tmp_path), "k"),
  ):
    raise OSError(number, os.strerror(number))
  assert not complete(tmp_path) and not temporary(tmp_path)


def test_a_data_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"`data_dir`.*HC_JAX_DATA"):
    store.data_folder(str(tmp_path / "file" / "below"))


def test_an_error_of_ours_passes_unchanged_and_leaves_nothing(tmp_path):
  with pytest.raises(ZeroDivisionError), store.build(str(tmp_path), "k"):
    raise ZeroDivisionError
  assert not list(tmp_path.iterdir())


def test_only_leftovers_of_the_dead_are_removed(tmp_path):
  for key in ("own", "dead", "alive"):
    (tmp_path / f".tmp-{key}-abc").mkdir()
  (tmp_path / "dead.lock").write_text("")
  with store.locked(str(tmp_path), "alive", print), store.locked(str(tmp_path), "own", print):
    store.clean(str(tmp_path), "own")
  assert [path.name for path in temporary(tmp_path)] == [".tmp-alive-abc"]


def test_without_locks_the_first_result_stands(tmp_path, monkeypatch):
  def none(*args):
    raise OSError(errno.ENOTSUP, "no locks")

  monkeypatch.setattr(exclusive.fcntl, "flock", none)
  with store.locked(str(tmp_path), "k", print) as held:
    assert not held
    with store.build(str(tmp_path), "k") as outer:
      (pathlib.Path(outer) / "x").write_text("outer")
      with store.build(str(tmp_path), "k") as inner:
        (pathlib.Path(inner) / "x").write_text("inner")
  assert (tmp_path / "k" / "x").read_text() == "inner"
  assert not temporary(tmp_path)
