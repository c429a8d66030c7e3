"""Several real processes, with one CPU device each, over gloo: they train as one process does."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from hc_jax import UserError, data
from hc_jax.processes import cluster as several
from hc_jax.processes.coordinator import listen_address
from hc_jax.runs import manifest
from hc_jax.runs.checkpoint import path_of, steps_of
from hc_jax.train import read_metrics
from tests.train import tiny
from tests.train.conftest import free_port

FSDP = ("--config.mesh.preset=fsdp", "--config.mesh.fsdp=2", "--config.mesh.data=1")


def losses(workdir):
  return {row["step"]: row["train/loss"] for row in read_metrics(str(workdir)) if row["step"]}


def assert_same_losses(found, expected):
  assert list(losses(found)) == list(losses(expected)) == list(range(1, 21))
  np.testing.assert_allclose(
    list(losses(found).values()), list(losses(expected).values()), rtol=1e-5, atol=1e-5
  )


@pytest.mark.slow
def test_a_missing_process_is_waited_for_so_long_and_no_longer(processes, tmp_path):
  start = time.monotonic()
  for missing in (0, 1):
    (ended,) = processes(tmp_path / "run", 2, "--connect-timeout=1", missing=[missing])
    assert ended.returncode == 2
    assert f"error: process {1 - missing} of 2 waited 1 s for the others at 127" in ended.stderr
    assert "start every process" in ended.stderr
  assert time.monotonic() - start < 120 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"distributed": "on"}, "choose auto or off"),
    ({"coordinator": "a:1"}, "--coordinator needs --num-processes and --process-id"),
    ({"connect_timeout": float("nan")}, "--connect-timeout=nan must be a finite number"),
    ({"connect_timeout": 0.0}, "--connect-timeout=0.0 must be more than 0"),
    ({"heartbeat_timeout": float("inf")}, "--heartbeat-timeout=inf must be a finite number"),
    ({"process_id": 0, "distributed": "off"}, "--process-id has no effect with --distributed=off"),
    ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "is not HOST:PORT"),
    ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "out of range .* 0 to 1"),
  ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message):
  with pytest.raises(UserError, match=message):
    several.connect(several.Cluster(**flags))


def test_no_cluster_is_one_process(monkeypatch):
  asked = []

  def initialize(*args, **_):
    asked.append(args)
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr("jax.distributed.initialize", initialize)
  several.connect(several.Cluster())
  assert asked == [(None, None, None)]
  # A single process of a cluster does not join it, since JAX would give it only one device.
  monkeypatch.setenv("SLURM_NTASKS", "1")
  several.connect(several.Cluster())
  several.connect(several.Cluster(distributed="off"))
  assert len(asked) == 1 and several.count() == 1 and several.gather("a") == ["a"]


def test_each_process_reads_its_rows_and_nothing_else():
  text = tiny.text()
  read = []
  tokens = text.train
  whole = data.train_batches(tokens, length=32, batch_size=8, seed=3)
  parts = [
    data.train_batches(tokens, length=32, batch_size=8, seed=3, block=(i, 4)) for i in range(4)
  ]
  for step in (0, 5, 1000):
    rows = [part[step]["inputs"] for part in parts]
    assert [len(r) for r in rows] == [2] * 4
    np.testing.assert_array_equal(np.concatenate(rows), whole[step]["inputs"])
  resumed = next(data.iterate(parts[2], 5))
  np.testing.assert_array_equal(resumed["targets"], whole[5]["targets"][4:6])

  class Counted:
    def __getitem__(self, i):
      read.append(i)
      return data.Windows(tokens, 32)[i]

  # Seven windows in batches of four: the last block of the last batch is empty.
  one = data.EvalBatches(Counted(), 5, 4)
  blocks = [data.EvalBatches(Counted(), 5, 4, (i, 2)) for i in range(2)]
  for step in (0, 1):
    both = np.concatenate([block[step]["mask"] for block in blocks])
    np.testing.assert_array_equal(both, one[step]["mask"])
  read.clear()
  blocks[1][0]
  assert read == [2, 3]
  with pytest.raises(UserError, match=r"9 rows cannot be divided over 2 processes: 9 / 2 = 4\.5"):
    data.train_batches(tokens, length=32, batch_size=9, seed=0, block=(0, 2))


@pytest.mark.slow
def test_two_processes_train_as_one_and_take_over_each_others_checkpoints(
  process, processes, tmp_path
):
  one, two = tmp_path / "one", tmp_path / "two"
  assert process(one).returncode == 0
  first, second = processes(two, 2)
  assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
  assert_same_losses(two, one)
  assert "device  2 x cpu" in first.stdout and "warning" not in first.stdout
  assert re.search(r"^ +1 +\S+ \d+ +1 x cpu", first.stdout, re.M)
  assert [line for line in second.stdout.splitlines() if "Gloo" not in line] == []
  card = json.loads((two / "checkpoints/20/card/metadata").read_text())
  assert card["step"] == 20 and manifest.fault(path_of(str(two), 20), 20) is None

  for workdir in (one, two):
    shutil.rmtree(path_of(str(workdir), 20))
  resumed = process(two)  # saved by two processes, resumed in one
  assert resumed.returncode == 0 and "resumed at step 10" in resumed.stdout, resumed.stderr
  shutil.copytree(one, tmp_path / "straight")
  mirror = f"--config.train.mirror={tmp_path / 'mirror'}"
  ended = processes(one, 2, *FSDP, mirror)  # saved by one, resumed in two, which hold halves
  assert [e.returncode for e in ended] == [0, 0], ended[0].stderr
  assert "resumed at step 10" in ended[0].stdout
  assert_same_losses(one, two)
  ended = processes(tmp_path / "empty", 2, *FSDP, mirror)  # the first fetches for both
  assert [e.returncode for e in ended] == [0, 0], ended[0].stderr
  assert "checkpoint 20 is fetched" in ended[0].stdout
  assert "finished already, at step 20" in ended[0].stdout and "mirror" not in ended[1].stdout


@pytest.mark.exhaustive
def test_a_signal_stops_all_processes_after_the_same_step(processes, process, tmp_path):
  ended = processes(tmp_path / "run", 2, send={0: "SIGTERM:6", 1: "SIGTERM:4"})
  assert [e.returncode for e in ended] == [75, 75], ended[0].stderr + ended[1].stderr
  (saved,) = steps_of(str(tmp_path / "run"))
  for e in ended:
    assert f"after step {saved}, which is saved" in e.stderr
  assert manifest.fault(path_of(str(tmp_path / "run"), saved), saved) is None
  # A signal to one process stops both.
  ended = processes(tmp_path / "run", 2, *FSDP, send={1: "SIGINT:13"})
  assert [e.returncode for e in ended] == [75, 75], ended[0].stderr + ended[1].stderr
  assert "stopped by a signal to another process after step" in ended[0].stderr
  assert process(tmp_path / "run").returncode == 0
  assert process(tmp_path / "straight").returncode == 0
  assert_same_losses(tmp_path / "run", tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_when_a_process_dies_the_others_end_with_an_error(processes, tmp_path, dies):
  start = time.monotonic()
  ended = processes(tmp_path, 2, "--heartbeat-timeout=5", send={dies: "SIGKILL:4"})
  assert ended[dies].returncode == -9
  other = ended[1 - dies]
  assert other.returncode in ABORTED, (other.returncode, other.stderr)
  assert "another" in other.stderr
  assert time.monotonic() - start < 240


@pytest.mark.exhaustive
def test_four_processes_with_heads_and_streams_split_train_as_one(process, processes, tmp_path):
  split = ("--config.mesh.preset=fsdp_tp", "--config.mesh.data=1", "--config.mesh.fsdp=2")
  assert process(tmp_path / "one").returncode == 0
  ended = processes(tmp_path / "four", 4, *split, "--config.mesh.tensor=2")
  assert [e.returncode for e in ended] == [0] * 4, ended[0].stderr
  assert_same_losses(tmp_path / "four", tmp_path / "one")


@pytest.mark.slow
def test_processes_that_do_not_belong_together_are_refused(processes, tmp_path):
  ended = processes(tmp_path / "run", 2, "--config.train.batch_size=7")
  assert [e.returncode for e in ended] == [2, 2]
  assert "7 / 2 = 3.5; use a multiple of 2" in ended[0].stderr
  assert "2 devices (mesh.data 2 * mesh.fsdp 1, of 2 processes)" in ended[0].stderr
  ended = processes(tmp_path / "run", 2, own={1: ["--config.optim.learning_rate=2e-2"]})
  assert [e.returncode for e in ended] == [2, 2]
  for e in ended:
    assert "error: process 1 and process 0 differ in optim.learning_rate; start all" in e.stderr
  assert not (tmp_path / "run").exists()


LEAVING = """
import os, sys, time
from hc_jax import UserError
from hc_jax.processes import cluster

address, number, count, code, seconds = sys.argv[1], *map(int, sys.argv[2:])
try:
  cluster.connect(cluster.Cluster("auto", address, count, number, 60, 5))
except UserError as error:
  print(error, flush=True)
  cluster.leave(2)
cluster.gather("both")
time.sleep(seconds)
print("the reason", flush=True)
cluster.leave(code)
"""


def two(each, envs=({}, {})):
  """Runs two processes; returns codes and outputs. `each` has count, code and seconds of both."""
  command = [sys.executable, "-c", LEAVING, f"127.0.0.1:{free_port()}"]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
  both = [
    subprocess.Popen(
      [*command, str(i), *map(str, own)],
      env=os.environ | {"PYTHONPATH": str(tiny.ROOT)} | envs[i],
      **pipes,
    )
    for i, own in enumerate(each)
  ]
  found = [child.communicate(timeout=200)[0] for child in both]
  return [child.returncode for child in both], found


ABORTED = (134, -6)  # from hc_jax, or from JAX by SIGABRT, which a shell reports as 134


@pytest.mark.slow
@pytest.mark.parametrize(
  "codes",
  [(2, 2), (4, 0), *(pytest.param(c, marks=pytest.mark.exhaustive) for c in [(0, 0), (0, 4)])],
)
def test_the_ends_of_two_processes(codes):
  # If process 0 ended at once, and with it the coordination service, JAX would abort process 1.
  slow = 3 * (codes[0] == codes[1])
  ended, found = two([(2, codes[0], 0), (2, codes[1], slow)])
  for i, code in enumerate(codes):
    expected = ABORTED if code == 0 and any(codes) else (code,)
    assert ended[i] in expected, found
    # JAX may abort a process before it prints its reason; then only the code is certain.
    assert ended[i] in ABORTED or found[i] == "the reason\n"


@pytest.mark.slow
@pytest.mark.parametrize(
  ("counts", "variable", "words"),
  [((2, 3), "", "has --num-processes=2 and process"), ((2, 2), "True", "has jax_enable_x64=")],
)
def test_processes_that_would_not_compute_the_same_are_refused(counts, variable, words):
  other = {"JAX_ENABLE_X64": variable} if variable else {}
  ended, found = two([(count, 0, 0) for count in counts], ({}, other))
  assert ended == [2, 2] and all(text.count("\n") == 1 for text in found), found
  assert words in found[0] and "; start all of them with the same packages" in found[1]


@pytest.fixture
def leaving(monkeypatch):
  """Makes this process one of two; returns a list that receives the exit code."""

  def prepare(shutdown=lambda: None):
    ended = []
    monkeypatch.setattr(several, "count", lambda: 2)
    monkeypatch.setattr(several, "index", lambda: 1)
    monkeypatch.setattr(several, "_WAIT", 0.2)
    monkeypatch.setattr(several.output, "finish", lambda: None)
    monkeypatch.setattr(
      several.jax.distributed, "shutdown", lambda: (ended.append("parts"), shutdown())
    )

    def end(code):
      ended.append(code)
      raise SystemExit(code)

    monkeypatch.setattr(several.os, "_exit", end)
    return ended

  return prepare


def test_an_end_that_all_share_waits_for_the_others_and_a_failure_of_one_does_not(leaving):
  ended = leaving()
  several.leave(0)
  several.leave(75)
  for code in (2, 3, 4, 5, 1):
    with pytest.raises(SystemExit):
      several.leave(code)
  assert ended == ["parts", "parts", "parts", 2, "parts", 3, 4, 5, 1]


def test_one_that_is_refused_alone_does_not_wait_for_ever(leaving):
  ended = leaving(shutdown=threading.Event().wait)
  with pytest.raises(SystemExit):
    several.leave(2)
  assert ended == ["parts", 2]


def test_a_lost_process_is_one_line_and_134(leaving, capsys):
  def lost():
    raise jax.errors.JaxRuntimeError("UNAVAILABLE: no heartbeat")

  ended = leaving(shutdown=lost)
  with pytest.raises(SystemExit):
    several.leave(0)
  with pytest.raises(SystemExit):
    several.leave_by(jax.errors.JaxRuntimeError("Gloo: Connection closed by peer\nmore"))
  assert ended == ["parts", 134, 134]
  lines = capsys.readouterr().err.splitlines()
  assert [line.partition(" (")[0] for line in lines] == [
    "error: process 1 lost another process of this run"
  ] * 2
  with pytest.raises(SystemExit):
    several.leave_by(KeyError("ours"))
  assert ended[-1] == 1 and "KeyError: 'ours'" in capsys.readouterr().err


def test_the_coordinator_listens_at_the_named_interface(monkeypatch):
  port = free_port()
  assert listen_address(f"127.0.0.1:{port}") == f"127.0.0.1:{port}"
  assert listen_address(f"localhost:{port}").rpartition(":")[0] in ("127.0.0.1", "[::1]")
  assert listen_address(f"192.0.2.1:{port}") == f"[::]:{port}"  # of another machine: forwarded
  found = [(socket.AF_INET, 1, 6, "", ("127.0.1.1", port))]
  monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
  assert listen_address(f"node001:{port}") == f"[::]:{port}"  # as /etc/hosts of Debian has it


def test_a_port_in_use_and_an_unknown_host_are_refused():
  with socket.socket() as other:
    other.bind(("127.0.0.1", 0))
    other.listen()
    port = other.getsockname()[1]
    cluster = several.Cluster("auto", f"127.0.0.1:{port}", 2, 0)
    with pytest.raises(UserError, match=r"cannot listen at .*\(Address already in use\); choose"):
      several.connect(cluster)
  with pytest.raises(UserError, match=r"--coordinator=no\.such\.host\.invalid:1: the host is not"):
    listen_address("no.such.host.invalid:1")


def test_what_the_processes_say_of_themselves(monkeypatch):
  rows = ["a 1|4 x TPU v5e|0 to 3", "b 2|4 x TPU v5e|4 to 7"]
  monkeypatch.setattr(several, "gather", lambda mine: rows)
  assert several.table() == [
    "process  host, pid  devices      ids",
    "0        a 1        4 x TPU v5e  0 to 3",
    "1        b 2        4 x TPU v5e  4 to 7",
  ]
  monkeypatch.setattr(several, "gather", lambda mine: rows * 20)
  assert len(several.table()) == 20 and several.table()[18].startswith("...")
