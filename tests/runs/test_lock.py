"""A workdir has one owner; an owner that is gone is noticed, on this host and on others."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from hc_jax import UserError, exclusive
from hc_jax.runs import lock

ROOT = str(pathlib.Path(lock.__file__).parents[2])


def owner(**changes):
  host, me = socket.gethostname(), os.getpid()
  return dataclasses.replace(lock.Owner(host, me, lock._start_of(me), time.time()), **changes)


def leave(folder, **changes):
  """Writes a lock file as a killed process leaves it, or a process that flock does not reach."""
  (folder / "lock").write_text(json.dumps(dataclasses.asdict(owner(**changes))).ljust(lock._SIZE))


@pytest.fixture
def holder(tmp_path):
  """Starts another process that holds the lock."""
  code = f"import time; from hc_jax.runs.lock import locked\nwith locked({str(tmp_path)!r}):\n"
  code += "  print('held', flush=True); time.sleep(60)"
  child = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
  )
  assert child.stdout.readline() == "held\n"
  yield child
  child.kill()
  child.wait()


def test_it_is_there_while_held_and_gone_afterwards(tmp_path):
  said = []
  with lock.locked(str(tmp_path), said.append):
    text = json.loads((tmp_path / "lock").read_text())
    assert (text["host"], text["pid"]) == (socket.gethostname(), os.getpid())
    assert text["start"].isdecimal() and abs(time.time() - text["heartbeat"]) < 60
    with (
      pytest.raises(UserError, match=f"in use by another run .process {os.getpid()} on"),
      lock.locked(str(tmp_path)),
    ):
      pass
  assert os.listdir(tmp_path) == [] and said == []


def test_a_killed_owner_is_noticed_and_named(tmp_path, holder):
  said = []
  with (
    pytest.raises(UserError, match=f"process {holder.pid} on .*wait for it, stop it"),
    lock.locked(str(tmp_path)),
  ):
    pass
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with lock.locked(str(tmp_path), said.append):
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
  assert len(said) == 1
  assert said[0].startswith(f"the lock of process {holder.pid} on ")
  assert said[0].endswith(" is taken over: that process is gone")


def test_where_the_system_has_no_locks_the_owners_word_decides(tmp_path, monkeypatch):
  def none(*_):
    raise OSError(95, "Operation not supported")

  monkeypatch.setattr(exclusive.fcntl, "flock", none)
  said = []
  leave(tmp_path)  # this process: it lives
  with pytest.raises(UserError, match="in use"), lock.locked(str(tmp_path)):
    pass
  leave(tmp_path, start="1")  # the same pid, given to another process
  with lock.locked(str(tmp_path), said.append):
    pass
  assert "that process is gone" in said[0]


def test_an_owner_on_another_host(tmp_path, monkeypatch):
  said = []
  leave(tmp_path, host="elsewhere", heartbeat=time.time() - lock.GONE - 5)
  with lock.locked(str(tmp_path), said.append):
    pass
  assert "on elsewhere" in said[0] and "taken over: no heartbeat for 125 s" in said[0]

  monkeypatch.setattr(lock, "GONE", 0.6)
  leave(tmp_path, host="elsewhere")
  with lock.locked(str(tmp_path), said.append):
    pass
  assert "waiting for a sign of life of process" in said[1] and "taken over" in said[2]

  monkeypatch.setattr(lock, "GONE", 20.0)
  leave(tmp_path, host="elsewhere")
  beat = threading.Timer(0.3, leave, (tmp_path,), {"host": "elsewhere"})
  beat.start()
  start = time.monotonic()
  with pytest.raises(UserError, match="on elsewhere"), lock.locked(str(tmp_path), said.append):
    pass
  assert time.monotonic() - start < 15


def test_the_heartbeat_goes_on_and_sees_a_takeover(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
  ended = threading.Event()
  monkeypatch.setattr(os, "_exit", lambda code: ended.set() if code == 4 else None)
  with lock.locked(str(tmp_path)):
    first = json.loads((tmp_path / "lock").read_text())["heartbeat"]
    deadline = time.monotonic() + 20
    while json.loads((tmp_path / "lock").read_text())["heartbeat"] == first:
      assert time.monotonic() < deadline
      time.sleep(0.01)
    assert not ended.is_set()
    while not ended.wait(0.01):
      assert time.monotonic() < deadline
      leave(tmp_path, host="elsewhere", pid=7)
  assert "was taken over by process 7 on elsewhere" in capfd.readouterr().err


def test_a_lock_that_its_owner_removes_meanwhile_is_no_lock(tmp_path, monkeypatch):
  """Removes the file between opening and locking; the lock would be on a deleted file."""
  path = tmp_path / "lock"
  path.touch()
  real, calls = exclusive.fcntl.flock, []

  def flock(*args):
    if not calls:
      path.unlink()
    calls.append(args)
    real(*args)

  monkeypatch.setattr(exclusive.fcntl, "flock", flock)
  with lock.locked(str(tmp_path)):
    assert path.exists() and len(calls) == 2
