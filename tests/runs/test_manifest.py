"""A manifest finds every change in a checkpoint since it was written."""

import json
import os
import random

import pytest

from hc_jax.runs import manifest

SIZES = {
  "params/d/a": 5000,
  "params/_METADATA": 64,
  "card/metadata": 300,
  "train/d/a": 10,
  "train/_METADATA": 10,
  "empty": 0,
}


@pytest.fixture
def folder(tmp_path):
  """Writes the files that every checkpoint has, two others, and their manifest."""
  made = tmp_path / "10"
  for name, size in SIZES.items():
    (made / name).parent.mkdir(parents=True, exist_ok=True)
    (made / name).write_bytes(random.Random(name).randbytes(size))
  manifest.write(str(made), 10)
  return made


def flip(path, bit):
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def test_nothing_has_changed(folder):
  assert manifest.exists(str(folder)) and manifest.fault(str(folder), 10) is None
  files = json.loads((folder / manifest.FILE).read_text())["files"]
  assert files.keys() == SIZES.keys()
  assert files["params/d/a"]["bytes"] == 5000 and len(files["card/metadata"]["sha256"]) == 64


def test_every_single_bit_counts(folder):
  rng = random.Random(0)
  for name in ("params/d/a", "params/_METADATA", "card/metadata"):
    bits = 8 * (folder / name).stat().st_size
    for bit in (0, bits - 1, *(rng.randrange(bits) for _ in range(20))):
      flip(folder / name, bit)
      assert manifest.fault(str(folder), 10) == f"{name} has changed: its SHA-256 differs"
      flip(folder / name, bit)
  assert manifest.fault(str(folder), 10) is None


def test_a_bit_of_the_manifest_itself(folder):
  """Flips bits of the manifest; the checkpoint is refused and nothing is raised."""
  path = folder / manifest.FILE
  for bit in range(0, 8 * path.stat().st_size, 13):
    before = json.loads(path.read_text())
    flip(path, bit)
    reason = manifest.fault(str(folder), 10)
    try:
      same = json.loads(path.read_text()) == before  # only the kind of white space changed
    except ValueError:
      same = False
    assert same or (reason and "\n" not in reason), bit
    flip(path, bit)


def rewrite(folder, change):
  """Changes the files that the manifest lists."""
  path = folder / manifest.FILE
  values = json.loads(path.read_text())
  change(values["files"])
  path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["params/d/a", "params/d/new", manifest.FILE])
@pytest.mark.parametrize("arm", [lambda p: p.symlink_to("/dev/zero"), os.mkfifo])
def test_what_is_no_plain_file_is_refused_at_once(folder, name, arm):
  (folder / name).unlink(missing_ok=True)
  arm(folder / name)
  assert f"{name} is a link, a pipe" in manifest.fault(str(folder), 10)


@pytest.mark.parametrize(
  ("damage", "reason"),
  [
    (lambda f: os.truncate(f / "params/d/a", 4999), "params/d/a has 4,999 bytes instead of 5,000"),
    (lambda f: (f / "params/_METADATA").unlink(), "params/_METADATA is missing"),
    (lambda f: os.truncate(f / manifest.FILE, 100), "manifest.json is damaged"),
    (lambda f: os.truncate(f / manifest.FILE, 0), "manifest.json is damaged"),
    (lambda f: (f / manifest.FILE).write_text("[]"), "manifest.json is damaged"),
    (lambda f: (f / manifest.FILE).unlink(), "no manifest.json: its save did not come to an end"),
    (lambda f: manifest.write(str(f), 9), "manifest.json is that of step 9"),
    (lambda f: rewrite(f, lambda files: files.clear()), "manifest.json lists no card/metadata"),
    (
      lambda f: rewrite(f, lambda files: files.pop("params/d/a")),
      "manifest.json lists no params/d/",
    ),
    (
      lambda f: rewrite(f, lambda files: files.pop("empty")),
      "empty is not in manifest.json; move it away",
    ),
    (lambda f: (f / "params/d/b").touch(), "params/d/b is not in manifest.json; move it away"),
    (lambda f: rewrite(f, lambda files: files.update({"../card": {}})), "../card is missing"),
    (lambda f: rewrite(f, lambda files: files.update({"/dev/zero": {}})), "/dev/zero is missing"),
    (lambda f: rewrite(f, lambda files: files.update({"empty": 3})), "manifest.json is damaged"),
    (lambda f: (f / manifest.FILE).write_text("[" * 10**5), "manifest.json is damaged"),
  ],
)
def test_the_reason_is_said_in_a_few_words(folder, damage, reason):
  damage(folder)
  assert manifest.fault(str(folder), 10) == reason


def test_a_file_that_cannot_be_read(folder, monkeypatch):
  def broken(*_):
    raise OSError(5, "Input/output error")

  monkeypatch.setattr(manifest.hashlib, "file_digest", broken)
  with pytest.raises(OSError, match="Input/output error") as caught:  # not damage
    manifest.fault(str(folder), 10)
  assert caught.value.filename.startswith(str(folder))


def test_another_format_is_named(folder):
  text = (folder / manifest.FILE).read_text().replace("manifest 1", "manifest 2")
  (folder / manifest.FILE).write_text(text)
  assert manifest.fault(str(folder), 10).startswith(
    "manifest.json is of format 'hc_jax manifest 2'"
  )
