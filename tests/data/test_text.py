import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from hc_jax.data import load_text, prepare, sources, text, tokens
from hc_jax.errors import UserError


def write_many(folder, make_lines, count=120, size=400):
  folder.mkdir(exist_ok=True)
  texts = [make_lines(size, seed=i) for i in range(count)]
  for i, content in enumerate(texts):
    (folder / f"{i:03}.txt").write_text(content)
  return texts


def test_every_byte_is_there_once(load, documents_of, make_lines, tmp_path):
  texts = write_many(tmp_path / "in", make_lines)
  data = load(tmp_path / "in", val_fraction=0.2)
  train, val = documents_of(data, data.train), documents_of(data, data.val)
  assert sorted(train + val) == sorted(texts)
  assert data.num_bytes == sum(map(len, texts)) and data.num_documents == len(texts)
  assert data.num_tokens == data.num_bytes + data.num_documents
  assert 0.05 < data.val.num_documents / len(texts) < 0.4
  assert data.train.tokens.dtype == np.uint16
  for split in (data.train, data.val):
    assert (split.tokens[split.offsets[:-1]] == 256).all()
    assert (split.tokens == 256).sum() == split.num_documents
    assert split.offsets[-1] == len(split)
  assert len(load.lines) == 1 and "prepared in" in load.lines[0]


def test_duplicates_share_a_split(load, documents_of, make_lines, tmp_path):
  records = [make_lines(60, seed=i % 50) for i in range(400)]
  (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": r}) for r in records))
  data = load(tmp_path / "a.jsonl", val_fraction=0.3)
  train, val = documents_of(data, data.train), documents_of(data, data.val)
  assert len(train) + len(val) == 400
  assert train and val and not set(train) & set(val)


def test_a_documents_split_does_not_depend_on_the_others(load, documents_of, make_lines, tmp_path):
  write_many(tmp_path / "in", make_lines)
  before = load(tmp_path / "in", val_fraction=0.2)
  for i in range(60):
    (tmp_path / "in" / f"{i:03}.txt").unlink()
  after = load(tmp_path / "in", val_fraction=0.2)
  assert set(documents_of(after, after.val)) <= set(documents_of(before, before.val))
  assert set(documents_of(after, after.train)) <= set(documents_of(before, before.train))


@pytest.mark.parametrize("size", [300, 60_000, 100_000, 400_000])
@pytest.mark.parametrize("repeated", [False, True])
def test_a_single_file_gives_both_splits(load, documents_of, make_lines, tmp_path, size, repeated):
  content = "the same line\n" * (size // 14) if repeated else make_lines(size)
  (tmp_path / "one.txt").write_text(content)
  data = load(tmp_path / "one.txt")
  train, val = documents_of(data, data.train), documents_of(data, data.val)
  assert train and val and not set(train) & set(val)
  assert sum(map(len, train + val)) == len(content)
  assert data.val.num_bytes <= data.train.num_bytes


def test_large_files_are_cut_at_line_ends(load, documents_of, make_lines, tmp_path):
  (tmp_path / "one.txt").write_text(make_lines(400_000))
  data = load(tmp_path / "one.txt")
  found = documents_of(data, data.train) + documents_of(data, data.val)
  assert data.num_documents == 7
  assert all(len(text) <= 65536 and text.endswith("\n") for text in found)


def test_prepared_once_and_found_again(load, make_lines, tmp_path, monkeypatch):
  write_many(tmp_path / "in", make_lines)
  first = load(tmp_path / "in")
  monkeypatch.setattr(prepare, "write_splits", None)  # would fail if called
  second = load(tmp_path / "in")
  assert second.fingerprint == first.fingerprint == pathlib.Path(first.folder).name
  np.testing.assert_array_equal(second.train.tokens, first.train.tokens)
  assert "prepared before" in load.lines[-1]
  moved = shutil.copytree(tmp_path / "in", tmp_path / "moved")
  assert load(moved).fingerprint == first.fingerprint
  int(first.fingerprint, 16)


def test_preparing_again_gives_the_same_bytes(load, make_lines, tmp_path):
  write_many(tmp_path / "in", make_lines)
  one = load(tmp_path / "in", data_dir=str(tmp_path / "one"))
  two = load(tmp_path / "in", data_dir=str(tmp_path / "two"))
  for name in os.listdir(one.folder):
    assert (
      pathlib.Path(one.folder, name).read_bytes() == pathlib.Path(two.folder, name).read_bytes()
    )


def test_an_edit_that_keeps_size_and_time_is_seen(load, documents_of, tmp_path, make_lines):
  write_many(tmp_path / "in", make_lines)
  path = tmp_path / "in" / "007.txt"
  before, stat = load(tmp_path / "in"), path.stat()
  edited = path.read_text()[:-2] + "#\n"
  path.write_text(edited)
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  after = load(tmp_path / "in")
  assert after.fingerprint != before.fingerprint
  assert edited in documents_of(after, after.train) + documents_of(after, after.val)


def test_what_the_fingerprint_names(load, make_lines, tmp_path, monkeypatch):
  lines = make_lines(2000).splitlines()
  records = [{"text": line, "other": line[::-1]} for line in lines]
  (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
  seen = [load(tmp_path / "a.jsonl").fingerprint]
  seen.append(load(tmp_path / "a.jsonl", val_fraction=0.5).fingerprint)
  seen.append(load(tmp_path / "a.jsonl", field="other").fingerprint)
  (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
  seen.append(load(tmp_path / "b.jsonl").fingerprint)
  monkeypatch.setattr(prepare, "FORMAT_VERSION", prepare.FORMAT_VERSION + 1)
  seen.append(load(tmp_path / "b.jsonl").fingerprint)
  monkeypatch.setattr(sources, "_TEXT_FILES_VERSION", "9.0.0")
  seen.append(load(tmp_path / "b.jsonl").fingerprint)
  assert len(set(seen)) == len(seen)


def test_another_tokenizer_file_is_another_preparation(load, make_lines, tmp_path):
  tk = pytest.importorskip("tokenizers")
  write_many(tmp_path / "in", make_lines)
  seen = {load(tmp_path / "in").fingerprint}
  for vocab in ({"<unk>": 0}, {"<unk>": 0, "abc": 1}):
    model = tk.Tokenizer(tk.models.WordLevel(vocab, unk_token="<unk>"))
    model.pre_tokenizer = tk.pre_tokenizers.Whitespace()
    model.save(str(tmp_path / "tokenizer.json"))
    data = load(tmp_path / "in", tokenizer=str(tmp_path / "tokenizer.json"))
    seen.add(data.fingerprint)
    assert any("rewrites this text" in line for line in load.lines)
    assert (data.train.tokens[data.train.offsets[:-1]] == data.tokenizer.bos_id).all()
  assert len(seen) == 3


PREPARED = ["train.tokens", "train.offsets", "val.tokens", "val.offsets", "card.json"]


@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
@pytest.mark.parametrize("name", PREPARED)
def test_damage_is_named_and_the_text_prepared_again(load, make_lines, tmp_path, name, damage):
  write_many(tmp_path / "in", make_lines, count=12)
  path = pathlib.Path(load(tmp_path / "in").folder, name)
  whole = path.read_bytes()
  if damage == "cut":
    os.truncate(path, 10)
  elif damage == "flip":
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
  else:
    path.unlink()
  load(tmp_path / "in")
  assert path.read_bytes() == whole
  assert str(path) in load.lines[-2] and "prepared again" in load.lines[-2]
  load(tmp_path / "in")
  assert "prepared before" in load.lines[-1]


def test_damage_is_said_where_nothing_is_prepared_again(load, make_lines, tmp_path):
  write_many(tmp_path / "in", make_lines, count=12)
  data = load(tmp_path / "in")
  lines = []
  where = (data.fingerprint, data.tokenizer, str(tmp_path / "prepared"), lines.append)
  assert text.find_text(*where).fingerprint == data.fingerprint and not lines
  os.truncate(os.path.join(data.folder, "val.tokens"), 10)
  assert text.find_text(*where) is None
  assert "val.tokens has 10 bytes" in lines[0] and "prepares the text again" in lines[0]


def test_every_flipped_bit_of_a_small_preparation_is_seen(load, make_lines, tmp_path):
  write_many(tmp_path / "in", make_lines, count=4, size=40)
  data = load(tmp_path / "in", val_fraction=0.3)
  rng = np.random.default_rng(0)
  for name in PREPARED:
    path = pathlib.Path(data.folder, name)
    whole = path.read_bytes()
    for byte in rng.choice(len(whole), min(len(whole), 50), replace=False):
      path.write_bytes(whole[:byte] + bytes([whole[byte] ^ (1 << byte % 8)]) + whole[byte + 1 :])
      found, damage = text._open(str(tmp_path / "prepared"), data.fingerprint, data.tokenizer)
      assert found is None and str(path) in damage
    path.write_bytes(whole)


def test_an_id_outside_of_the_vocabulary_is_damage(load, make_lines, tmp_path):
  write_many(tmp_path / "in", make_lines, count=4)
  data = load(tmp_path / "in")
  with pytest.raises(tokens.Damaged, match=r"train\.tokens holds the id 256, .* ends at 255"):
    tokens.open_array(data.folder, "train", data.card["splits"]["train"], 256)


def test_text_prepared_without_checksums_is_prepared_again(load, make_lines, tmp_path):
  write_many(tmp_path / "in", make_lines, count=12)
  card = pathlib.Path(load(tmp_path / "in").folder, "card.json")
  old = json.loads(card.read_text())
  del old["sha256"]
  card.write_text(json.dumps(old))
  load(tmp_path / "in")
  assert "before prepared text had checksums" in load.lines[-2]


def test_few_windows_of_validation_give_a_warning(load, make_lines, tmp_path):
  write_many(tmp_path / "in", make_lines, count=12)
  val = load(tmp_path / "in").val
  for _ in range(2):
    load.lines.clear()
    load(tmp_path / "in", length=len(val) // 8)
    assert len(load.lines) == 1
    load(tmp_path / "in", length=len(val) // 8 + 1)
    assert f"warning: validation holds {len(val)} tokens, 7." in load.lines[-1]
    assert "`val_fraction=0.02`" in load.lines[-1]


def test_a_file_that_changes_while_it_is_prepared(load, make_lines, tmp_path, monkeypatch):
  (tmp_path / "a.txt").write_text(make_lines(3000))
  write = prepare.write_splits

  def edit_meanwhile(*args):
    (tmp_path / "a.txt").write_text("other text\n")
    return write(*args)

  monkeypatch.setattr(prepare, "write_splits", edit_meanwhile)
  with pytest.raises(UserError, match=r"a\.txt changed"):
    load(tmp_path / "a.txt")
  assert not [p for p in (tmp_path / "prepared").iterdir() if p.is_dir()]


def test_a_file_in_a_folder_that_is_no_text_is_left_out_and_said(load, make_lines, tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "a.txt").write_text(make_lines(3000))
  (tmp_path / "in" / "b.png").write_bytes(b"\x89PNG\0\xff")
  load(tmp_path / "in")
  assert "left out 1" in load.lines[0] and "b.png" in load.lines[0]
  with pytest.raises(UserError, match=r"b\.png is not text"):
    load(tmp_path / "in" / "b.png")


def test_a_name_that_is_no_utf8(load, make_lines, tmp_path):
  (tmp_path / "in").mkdir()
  for name in (b"caf\xe9.txt", b"caf\xe9.png"):
    with open(os.path.join(os.fsencode(tmp_path), b"in", name), "wb") as stream:
      stream.write(make_lines(3000).encode() if name.endswith(b"txt") else b"\0")
  assert load(tmp_path / "in").fingerprint == load(tmp_path / "in").fingerprint
  "".join(load.lines).encode()


def test_an_error_in_a_file_leaves_nothing(load, tmp_path):
  (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text"\n')
  with pytest.raises(UserError, match=r"^/.*a\.jsonl, line 2 is not JSON"):
    load(tmp_path / "a.jsonl")
  assert not [p for p in (tmp_path / "prepared").iterdir() if p.is_dir()]


def test_records_without_text_are_left_out_counted_and_said(load, documents_of, tmp_path):
  texts = ['"text": "a"', '"text": null', '"body": "b"', r'"text": "\ud800"', '"text": "c"']
  (tmp_path / "a.jsonl").write_text("\n".join(f"{{{text}}}" for text in texts))
  data = load(tmp_path / "a.jsonl")
  assert sorted(documents_of(data, data.train) + documents_of(data, data.val)) == ["a", "c"]
  path = tmp_path / "a.jsonl"
  assert load.lines[0] == (
    f"data: left out 3 of 5 records: 2 without text in field 'text' (first: {path}, line 2), "
    f"1 with text that is not valid UTF-8 in field 'text' (first: {path}, line 4)"
  )


@pytest.mark.parametrize(
  ("content", "remedy"),
  [
    ('{"body": "b", "n": 1}', "fields that hold text: body; set `field`"),
    ('{"text": null}', "no field holds text; give other `files`"),
  ],
)
def test_nothing_left_is_an_error_with_the_reason(load, tmp_path, content, remedy):
  (tmp_path / "a.jsonl").write_text(content)
  (tmp_path / "x.bin").write_bytes(b"\0")
  with pytest.raises(UserError, match=rf"left out 1 that.*x\.bin.*left out 1 of 1 .*{remedy}$"):
    load(tmp_path)


@pytest.mark.parametrize("contents", [[""], ["", ""], ["\ufeff"]])
def test_empty_text(load, tmp_path, contents):
  for i, content in enumerate(contents):
    (tmp_path / f"{i}.txt").write_text(content)
  with pytest.raises(UserError, match="text is empty"):
    load(*(tmp_path / f"{i}.txt" for i in range(len(contents))))


@pytest.mark.parametrize("content", ["a", "aaaaaaaa"])
def test_text_too_small_to_divide(load, tmp_path, content):
  (tmp_path / "a.txt").write_text(content)
  with pytest.raises(UserError, match=r"cannot be divided|give more text"):
    load(tmp_path / "a.txt")


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 2, float("nan")])
def test_val_fraction_out_of_range(load, tmp_path, val_fraction):
  with pytest.raises(UserError, match=r"^val_fraction="):
    load(tmp_path, val_fraction=val_fraction)


def test_files_with_another_name_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"`files`.*`name=py_stdlib`"):
    load_text("py_stdlib", files=["a.txt"], data_dir=str(tmp_path))


def test_one_path_as_a_plain_string(make_lines, tmp_path):
  (tmp_path / "a.txt").write_text(make_lines(3000))
  data = load_text(
    "text_files", files=str(tmp_path / "a.txt"), data_dir=str(tmp_path), log=lambda line: None
  )
  assert data.num_bytes >= 3000


def test_where_data_lies(make_lines, tmp_path, monkeypatch):
  (tmp_path / "a.txt").write_text(make_lines(3000))
  monkeypatch.setenv("HC_JAX_DATA", str(tmp_path / "there"))
  data = text.load_text("text_files", files=[str(tmp_path / "a.txt")], log=lambda line: None)
  assert pathlib.Path(data.folder).parent == tmp_path / "there"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(make_lines, tmp_path):
  """Reads 250 MB of text and a line of 150 MB in a process whose peak memory is measured."""
  lines = make_lines(1_000_000)
  with open(tmp_path / "a.txt", "w") as stream:
    stream.writelines(lines for _ in range(250))
  with open(tmp_path / "b.jsonl", "w") as stream:
    stream.write('{"text": "')
    stream.writelines(lines.replace("\n", "\\n") for _ in range(150))
    stream.write('"}\n')
  code = """
    import resource, sys
    from hc_jax import data

    def peak():
      return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

    before = peak()
    files = [sys.argv[1] + "/a.txt", sys.argv[1] + "/b.jsonl"]
    text = data.load_text("text_files", files=files, data_dir=sys.argv[1])
    assert text.num_bytes > 395e6
    assert peak() - before < 120, peak() - before
    assert "tensorflow_datasets" not in sys.modules
  """
  command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
  result = subprocess.run(command, capture_output=True, text=True, timeout=300)
  assert result.returncode == 0, result.stderr
