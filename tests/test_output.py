"""Tests that a lost console causes no exception, no delay and no other exit code."""

import io
import os
import subprocess
import sys
import time

import pytest

from hc_jax import cli, output
from hc_jax.cli import params
from tests.processes.test_signals import PROGRAM


def stream(file, encoding="utf-8"):
  return io.TextIOWrapper(io.FileIO(file, "w"), encoding)


@pytest.fixture
def pipe():
  read, write = os.pipe()
  with open(read, "rb", buffering=0) as reader:
    yield reader, stream(write)


def test_a_line_is_there_at_once_and_letters_that_the_encoding_lacks_are_escaped(tmp_path):
  for encoding, path in (("utf-8", "wörk"), ("ascii", r"w\xf6rk")):
    with open(tmp_path / encoding, "w") as file:
      output.write_line("run wörk", stream(os.dup(file.fileno()), encoding))
    assert (tmp_path / encoding).read_text() == f"run {path}\n"


def test_a_full_disk_a_reader_that_is_gone_and_a_closed_stream_lose_the_line_alone(pipe):
  with open("/dev/full", "w") as full:
    output.write_line("lost", full)
  assert full.closed  # closing would raise if the buffer still held text
  reader, writer = pipe
  reader.close()
  output.write_line("lost", writer)
  writer.close()
  output.write_line("lost", writer)
  output.write_line("lost", None)


def test_a_pipe_that_nobody_reads_is_waited_for_once_and_says_what_is_missing(pipe, monkeypatch):
  reader, writer = pipe
  monkeypatch.setattr(output, "_PATIENCE", 0.2)
  start = time.monotonic()
  for i in range(3000):
    output.write_line(f"{i:>60}", writer)
  assert 0.2 < time.monotonic() - start < 5
  lines = reader.read(1 << 20).decode().splitlines()
  assert [int(line) for line in lines] == list(range(len(lines))) and len(lines) < 3000
  output.write_line("again", writer)
  assert reader.read(1 << 20).decode() == (
    f"({3000 - len(lines):,} lines are missing here: nobody read them)\nagain\n"
  )


def ended(program, **streams):
  program = PROGRAM + "from hc_jax import output\noutput.prepare()\n" + program
  done = subprocess.run(
    [sys.executable, "-c", program + "\noutput.finish()"],
    stderr=subprocess.PIPE,
    env=os.environ | {"PYTHONUNBUFFERED": ""},
    **streams,
  )
  return done.returncode, done.stderr.decode()


def test_what_is_left_in_a_buffer_changes_no_exit_code():
  with open("/dev/full", "w") as full:
    assert ended("print('left')", stdout=full) == (0, "")


def test_a_full_pipe_does_not_keep_a_program_that_is_done(pipe):
  reader, writer = pipe
  os.set_blocking(writer.fileno(), False)
  with pytest.raises(BlockingIOError):
    while True:
      os.write(writer.fileno(), b"x" * 4096)
  os.set_blocking(writer.fileno(), True)
  assert ended("print('left')", stdout=writer.fileno(), timeout=20) == (0, "")
  assert reader.read(1) == b"x"


def test_a_file_opened_by_a_program_without_stdout_is_not_its_stdout(tmp_path):
  program = f"file = open({str(tmp_path / 'file')!r}, 'w')\nos.write(1, b'of a library')"
  assert ended(program, preexec_fn=lambda: os.close(1)) == (0, "")
  assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("where", ["print", "the last flush"])
def test_a_command_whose_output_cannot_be_written_says_so(where, monkeypatch, capsys):
  def command(*_):
    print("x" * (100_000 if where == "print" else 1))

  monkeypatch.setattr(params, "run_config", command)
  with open("/dev/full", "w") as full:
    monkeypatch.setattr(sys, "stdout", full)
    assert cli.main(["params", "any"]) == 4
  assert capsys.readouterr().err == "error: the output cannot be written: No space left on device\n"
