import gzip
import os

import pytest

from hc_jax.data import files
from hc_jax.errors import UserError


def test_folders_are_searched_sorted_and_without_hidden_files(tmp_path):
  for name in ("b.txt", "a/z.py", ".git/x", "a/.hidden", "a/__pycache__/c.pyc"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
  found = files.find_files([str(tmp_path), str(tmp_path / "b.txt")])
  assert [(file.name, file.named) for file in found] == [("a/z.py", False), ("b.txt", True)]


def test_links_are_followed_once(tmp_path):
  (tmp_path / "real").mkdir()
  (tmp_path / "real" / "a.txt").write_text("x")
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
  (tmp_path / "real" / "back").symlink_to(tmp_path / "in")
  assert [file.name for file in files.find_files([str(tmp_path / "in")])] == ["link/a.txt"]


@pytest.mark.parametrize("entries", [[], ["missing.txt"], ["dangling"], ["empty"], ["pipe"]])
def test_nothing_to_read_is_a_user_error(tmp_path, monkeypatch, entries):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "empty").mkdir()
  (tmp_path / "dangling").symlink_to("nowhere")
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(UserError, match="`files`"):
    files.find_files(entries)


def test_inspection_reads_the_content_and_finds_the_first_bad_byte(tmp_path):
  block = files._BLOCK
  good = "é" * (block // 2 + 3)  # a character across the blocks
  (tmp_path / "a").write_text(good)
  (tmp_path / "b").write_bytes(b"x" + good.encode() + b"\xff")
  (tmp_path / "c").write_bytes("wide".encode("utf-16"))
  (tmp_path / "d").write_bytes("é".encode()[:1])
  a, b, c, d = files.inspect_files(files.find_files([str(tmp_path)]))
  assert (a.text_error, a.size) == ("", len(good.encode()))
  assert f"byte {1 + len(good.encode())}" in b.text_error
  assert "UTF-16" in c.text_error
  assert "byte 0" in d.text_error
  before = os.stat(tmp_path / "a")
  (tmp_path / "a").write_text(good[:-1] + "è")
  os.utime(tmp_path / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
  assert files.inspect_files([a.file])[0].digest != a.digest


def test_a_compressed_file_that_holds_no_text_is_found_by_its_beginning(tmp_path):
  zipped = {"a.tar.gz": b"name\0\0", "b.txt.gz": b"caf\xe9 au lait", "c.txt.gz": "é".encode()}
  for name, content in zipped.items():
    (tmp_path / name).write_bytes(gzip.compress(content))
  (tmp_path / "d.txt.gz").write_bytes(b"no gzip")  # reported when it is read
  a, b, c, d = files.inspect_files(files.find_files([str(tmp_path)]))
  assert "NUL" in a.text_error and "byte 3" in b.text_error
  assert not c.text_error and not d.text_error
