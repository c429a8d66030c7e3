"""metrics.jsonl has each row once and in order, even after a crash."""

import json
import os
import zlib

import numpy as np
import pytest

from hc_jax.runs.errors import writing
from hc_jax.runs.metrics import Metrics
from hc_jax.runs.workdir import write_atomically
from hc_jax.train import StorageError, read_metrics

ROWS = [{"step": s, "train/loss": 1.0 / (s + 1)} for s in range(6)]


def lay(folder, text):
  (folder / "metrics.jsonl").write_text(text)
  return str(folder)


def lines(rows):
  return "".join(map(line_of, rows))


def line_of(row):
  text = json.dumps(row)
  return f'{text[:-1]}, "crc32": {zlib.crc32(text.encode())}}}\n'


@pytest.mark.parametrize(
  "tail",
  ['{"step": 6, "tr', '{"step": 6', "{", "\0\0\0", "7", '{"loss": 1}\n', '{"step": 6, "a": 1}'],
)
def test_a_resumed_run_drops_later_rows_and_torn_lines(tmp_path, tail):
  folder = lay(tmp_path, lines(ROWS) + tail)
  said = []
  with Metrics(folder, 3, log=said.append) as metrics:
    assert read_metrics(folder) == ROWS[:4]
    metrics.write({"step": 4, "train/loss": 9.0})
  assert read_metrics(folder) == [*ROWS[:4], {"step": 4, "train/loss": 9.0}]
  assert len(said) == 1 and "kept 4 rows up to step 3" in said[0]


def test_a_run_from_the_start_keeps_no_row_and_an_untouched_file_is_left_alone(tmp_path):
  folder = lay(tmp_path, lines(ROWS))
  before = os.stat(tmp_path / "metrics.jsonl").st_ino
  with Metrics(folder, 5, log=pytest.fail):
    pass
  assert os.stat(tmp_path / "metrics.jsonl").st_ino == before
  with Metrics(folder, None, log=lambda line: None):
    assert read_metrics(folder) == []


def test_a_last_line_without_its_end_is_completed(tmp_path):
  folder = lay(tmp_path, lines(ROWS).rstrip("\n"))
  with Metrics(folder, 5, log=lambda line: None) as metrics:
    metrics.write({"step": 6})
  assert [row["step"] for row in read_metrics(folder)] == list(range(7))


def test_every_flipped_bit_costs_its_row_and_no_number(tmp_path):
  content = lines(ROWS).encode()
  read = [tuple(row.items()) for row in ROWS]
  for bit in np.random.default_rng(0).choice(8 * len(content), 400, replace=False):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    found = [tuple(row.items()) for row in read_metrics(str(tmp_path))]
    assert len(found) < len(read) and set(found) <= set(read), (bit, found)


def test_rows_of_earlier_versions_are_read_and_get_checksums(tmp_path):
  folder = lay(tmp_path, "".join(json.dumps(row) + "\n" for row in ROWS))
  assert read_metrics(folder) == ROWS
  with Metrics(folder, 5, log=lambda line: None) as metrics:
    metrics.write({"step": 6})
  assert (tmp_path / "metrics.jsonl").read_text() == lines([*ROWS, {"step": 6}])


def test_numbers_come_back_bit_for_bit(tmp_path):
  value = 0.1 + 0.2
  with Metrics(str(tmp_path), None) as metrics:
    metrics.write({"step": 1, "train/loss": value})
    with pytest.raises(ValueError):
      metrics.write({"step": 2, "train/loss": float("nan")})
  assert read_metrics(str(tmp_path)) == [{"step": 1, "train/loss": value}]


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "file"
  write_atomically(str(path), "old")

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with (
    pytest.raises(StorageError, match="file could not be written: No space left"),
    writing("file"),
  ):
    write_atomically(str(path), "new")
  assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_real_full_disk_is_recognised(tmp_path):
  """Writes to /dev/full, where every write fails as on a full disk."""
  if not os.path.exists("/dev/full"):
    pytest.skip("no /dev/full")
  os.symlink("/dev/full", tmp_path / "full")
  file = open(tmp_path / "full", "w")  # noqa: SIM115
  file.write("x")
  with pytest.raises(StorageError, match="No space left on device"), writing("rows"):
    file.flush()


def test_other_errors_pass():
  with pytest.raises(KeyError), writing("rows"):
    raise KeyError("step")
