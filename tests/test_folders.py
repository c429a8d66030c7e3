"""Tests of a folder from someone else: no link is followed, and only plain files are read."""

import json
import os
import socket

import pytest

from hc_jax import UserError, durable, folders, terminal


@pytest.fixture
def inside(tmp_path):
  """Returns a folder with a file in it, next to a secret file."""
  (tmp_path / "secret").write_text("mine")
  (tmp_path / "home").mkdir()
  (tmp_path / "home" / "file").write_text("mine")
  made = tmp_path / "run"
  (made / "below").mkdir(parents=True)
  (made / "below" / "file").write_text("text")
  return made


ARMED = {
  "a link": lambda run: (run / "x").symlink_to("../secret"),
  "a link to a file inside": lambda run: (run / "x").symlink_to("below/file"),
  "a pipe": lambda run: os.mkfifo(run / "x"),
  "a device behind a link": lambda run: (run / "x").symlink_to("/dev/zero"),
  "a socket": lambda run: socket.socket(socket.AF_UNIX).bind(str(run / "x")),
  "a folder": lambda run: (run / "x").mkdir(),
}


@pytest.mark.parametrize("arm", ARMED.values(), ids=ARMED)
def test_only_plain_files_are_read(inside, arm, monkeypatch):
  monkeypatch.chdir(inside.parent)  # because a socket's path must be short
  arm(type(inside)("run"))
  with pytest.raises(UserError, match="plain files"):
    folders.read_bytes(str(inside), "x", 100)
  if not (inside / "x").is_dir():
    with pytest.raises(UserError, match="plain files"):
      folders.check_plain(str(inside), "absent", "x")
    with pytest.raises(UserError, match="plain files"):
      folders.files_below(str(inside))


@pytest.mark.parametrize(
  "name", ["../secret", "below/../../secret", "/etc/passwd", "", ".", "a//b"]
)
def test_no_name_leads_out(inside, name):
  with pytest.raises(UserError, match="not the name of a file inside"):
    folders.read_bytes(str(inside), name, 100)


def test_a_folder_that_is_a_link_is_not_passed(inside):
  (inside / "out").symlink_to("../home")
  for use in (
    lambda: folders.read_bytes(str(inside), "out/file", 100),
    lambda: folders.list_folder(str(inside), "out"),
    lambda: folders.make_folder(str(inside), "out/new"),
    lambda: folders.make_folder(str(inside), "out"),
    lambda: durable.write_atomically(str(inside / "out" / "file"), "theirs", str(inside)),
  ):
    with pytest.raises(UserError, match="out is a link"):
      use()
  assert sorted(os.listdir(inside.parent / "home")) == ["file"]
  assert (inside.parent / "home" / "file").read_text() == "mine"


def test_the_folder_itself_is_the_callers_word(inside):
  (inside.parent / "mine").symlink_to("run")
  assert folders.read_bytes(str(inside.parent / "mine"), "below/file", 100) == b"text"
  assert folders.files_below(str(inside)) == ["below/file"]
  assert folders.list_folder(str(inside), "below") == ["file"]
  assert folders.list_folder(str(inside), "absent") == []


def test_a_file_is_read_up_to_its_limit(inside):
  assert folders.read_bytes(str(inside), "below/file", 4) == b"text"
  with pytest.raises(UserError, match="more than 3 bytes"):
    folders.read_bytes(str(inside), "below/file", 3)
  os.truncate(inside / "below" / "file", 1 << 40)  # a hole of a terabyte
  with pytest.raises(UserError, match="more than"):
    folders.read_json(str(inside), "below/file")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[" * 33 + b"]" * 33, b'{"a":' * 5000])
def test_deep_json_is_refused(text):
  with pytest.raises(ValueError, match="nested too deeply"):
    folders.parse_json(text)


def test_json_that_is_no_json_is_a_value_error():
  for text in (b"NaN", b'{"a": -Infinity}', b"1" * 5000, b"\xff", b"", b"{"):
    with pytest.raises(ValueError):
      folders.parse_json(text)
  assert folders.parse_json(b"[" * 32 + b"]" * 32)
  assert folders.parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


@pytest.mark.parametrize("planted", ["file", "file.tmp"])
def test_a_write_replaces_a_link(inside, planted):
  (inside / planted).symlink_to("../secret")
  durable.write_atomically(str(inside / "file"), json.dumps(1))
  assert (inside / "file").read_text() == "1" and not (inside / "file").is_symlink()
  assert (inside.parent / "secret").read_text() == "mine"
  assert sorted(os.listdir(inside)) == ["below", "file"]


def test_a_write_leaves_a_hard_linked_file_alone(inside):
  os.link(inside.parent / "secret", inside / "file")
  durable.write_atomically(str(inside / "file"), b"\x00")
  assert (inside.parent / "secret").read_text() == "mine"


def test_what_is_printed_controls_no_terminal(capsys):
  with terminal.escaping():
    print("\x1b]0;title\x07 a\tb\r\x9b31m\u202e\ud800 naïve\n日本")
  assert capsys.readouterr().out == (
    "\\x1b]0;title\\x07 a\tb\\x0d\\x9b31m\\u202e\\ud800 naïve\n日本\n"
  )
