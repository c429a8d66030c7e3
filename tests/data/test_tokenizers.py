import json
import shutil
import sys

import numpy as np
import pytest

from hc_jax.data import load_tokenizer
from hc_jax.errors import UserError

SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
LETTERS = "▁abders<>/"


@pytest.fixture
def save_model(tmp_path):
  """Returns save_model(model, pre), which writes a tokenizer.json; special tokens are pieces."""
  tk = pytest.importorskip("tokenizers")

  def save(model, pre=None, decoder=None):
    tokenizer = tk.Tokenizer(model)
    if pre:
      tokenizer.pre_tokenizer = pre
    if decoder:
      tokenizer.decoder = decoder
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens(["read"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")

  return save


@pytest.fixture(scope="module")
def corpus(make_lines):
  return make_lines(20_000, seed=1)


@pytest.fixture(scope="module")
def sentencepiece_files(tmp_path_factory, corpus):
  """Trains models by name: with SentencePiece's defaults, and so that every byte is kept."""
  spm = pytest.importorskip("sentencepiece")
  folder = tmp_path_factory.mktemp("spm")
  exact = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "bos_id": -1,
  }
  bare = exact | {"eos_id": -1}
  for name, options in {"default": {}, "exact": exact, "bare": bare}.items():
    spm.SentencePieceTrainer.train(
      sentence_iterator=iter(corpus.splitlines()),
      model_prefix=str(folder / name),
      vocab_size=300 if options else 120,
      minloglevel=2,
      **options,
    )
  return {name: str(folder / f"{name}.model") for name in ("default", "exact", "bare")}


@pytest.fixture(scope="module")
def hugging_face_files(tmp_path_factory, corpus):
  tk = pytest.importorskip("tokenizers")
  folder = tmp_path_factory.mktemp("hf")
  special = ["<unk>", "<|endoftext|>"]

  def save(name, model, trainer, pre, decoder):
    tokenizer = tk.Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoder
    tokenizer.train_from_iterator(corpus.splitlines(), trainer)
    tokenizer.add_tokens([tk.AddedToken("\n\n\n", normalized=False)])
    # Settings that a file may contain and that training must ignore.
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=64)
    tokenizer.post_processor = tk.processors.TemplateProcessing(
      single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 1)]
    )
    tokenizer.save(str(folder / f"{name}.json"))

  save(
    "byte_level",
    tk.models.BPE(),
    tk.trainers.BpeTrainer(
      vocab_size=400,
      special_tokens=special,
      show_progress=False,
      initial_alphabet=tk.pre_tokenizers.ByteLevel.alphabet(),
    ),
    tk.pre_tokenizers.ByteLevel(add_prefix_space=False),
    tk.decoders.ByteLevel(),
  )
  save(
    "metaspace",
    tk.models.BPE(unk_token="<unk>"),
    tk.trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False),
    tk.pre_tokenizers.Metaspace(prepend_scheme="never"),
    tk.decoders.Metaspace(prepend_scheme="never"),
  )
  return {name: str(folder / f"{name}.json") for name in ("byte_level", "metaspace")}


HARD = "naïve 日本語 😀\n\n\n\ttabs  and   runs\r\n<|endoftext|> </s> <s>\u2028"


def assert_exact(tokenizer, text):
  ids = tokenizer.encode(text)
  assert ids.dtype == np.int32 and ids.ndim == 1
  assert tokenizer.decode(ids) == text
  assert tokenizer.token_bytes[ids].sum() == len(text.encode())
  assert tokenizer.bos_id not in ids
  assert tokenizer.decode([tokenizer.bos_id, *ids]) == text


def assert_sound(tokenizer, name):
  assert tokenizer.name == name
  assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
  assert tokenizer.token_bytes.dtype == np.int32
  assert 0 <= tokenizer.bos_id < tokenizer.vocab_size
  assert tokenizer.token_bytes[tokenizer.bos_id] == 0
  assert tokenizer.encode("").shape == (0,)
  with pytest.raises(ValueError, match="token ids"):
    tokenizer.decode([tokenizer.vocab_size])


@pytest.mark.parametrize("text", ["", "plain", HARD, "\0\x7f"])
def test_bytes(text):
  tokenizer = load_tokenizer()
  assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.path) == (257, 256, None)
  assert_sound(tokenizer, "bytes")
  assert_exact(tokenizer, text)
  np.testing.assert_array_equal(tokenizer.encode("é"), [0xC3, 0xA9])


def test_bytes_decode_what_is_no_text():
  assert load_tokenizer("bytes").decode([65, 0xC3, 256, 66]) == "A\ufffdB"


@pytest.mark.parametrize("kind", ["exact", "bare"])
def test_sentencepiece_that_keeps_every_byte(sentencepiece_files, corpus, kind):
  tokenizer = load_tokenizer(sentencepiece_files[kind])
  assert_sound(tokenizer, "sentencepiece")
  assert_exact(tokenizer, corpus[:3000])
  assert_exact(tokenizer, HARD)
  assert len(tokenizer.encode(corpus)) < len(corpus)
  # "exact" has an eos, which serves as bos; "bare" gets a new id
  assert tokenizer.vocab_size == (301 if kind == "bare" else 300)


def test_sentencepiece_default_counts_nearly_all_bytes(sentencepiece_files, corpus):
  tokenizer = load_tokenizer(sentencepiece_files["default"])
  assert_sound(tokenizer, "sentencepiece")
  assert tokenizer.bos_id == 1
  line = corpus.splitlines()[0]
  ids = tokenizer.encode(line)
  assert tokenizer.decode(ids) == line
  assert tokenizer.token_bytes[ids].sum() == len(line) + 1  # the space it puts in front


def test_hugging_face_byte_level(hugging_face_files, corpus):
  tokenizer = load_tokenizer(hugging_face_files["byte_level"])
  assert_sound(tokenizer, "huggingface")
  assert tokenizer.bos_id == 1
  assert_exact(tokenizer, corpus[:3000])
  assert_exact(tokenizer, HARD)


def test_hugging_face_metaspace(hugging_face_files, corpus):
  tokenizer = load_tokenizer(hugging_face_files["metaspace"])
  assert_sound(tokenizer, "huggingface")
  assert_exact(tokenizer, corpus.splitlines()[0])


def test_batches_are_the_single_encodings(sentencepiece_files, hugging_face_files, corpus):
  lines = [line.encode() for line in corpus.splitlines()[:50]]
  for spec in ("bytes", sentencepiece_files["exact"], hugging_face_files["byte_level"]):
    tokenizer = load_tokenizer(spec)
    for line, ids in zip(lines, tokenizer.encode_batch(lines), strict=True):
      np.testing.assert_array_equal(ids, tokenizer.encode(line.decode()))


def test_a_copied_file_is_the_same_tokenizer(hugging_face_files, tmp_path):
  first = load_tokenizer(hugging_face_files["byte_level"])
  copied = load_tokenizer(shutil.copy(first.path, tmp_path / "tokenizer.json"))
  assert copied.fingerprint == first.fingerprint
  assert copied.path != first.path
  np.testing.assert_array_equal(copied.encode(HARD), first.encode(HARD))


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ("byte", "neither 'bytes' nor"),
    ("missing.model", "no file .*missing.model"),
    ("missing.json", "no file .*missing.json"),
    ("bad.model", "not a SentencePiece model"),
    ("bad.json", r"not a tokenizer\.json"),
    ("other.json", r"not a tokenizer\.json"),
  ],
)
def test_bad_specs(tmp_path, monkeypatch, spec, message):
  pytest.importorskip("sentencepiece")
  pytest.importorskip("tokenizers")
  monkeypatch.chdir(tmp_path)
  (tmp_path / "bad.model").write_bytes(b"nothing")
  (tmp_path / "bad.json").write_text("nothing")
  (tmp_path / "other.json").write_text(json.dumps({"a": 1}))
  with pytest.raises(UserError, match=message):
    load_tokenizer(spec)


@pytest.mark.parametrize(
  ("name", "package"), [("a.model", "sentencepiece"), ("a.json", "tokenizers")]
)
def test_missing_package_names_the_extra(tmp_path, monkeypatch, name, package):
  (tmp_path / name).write_text("x")
  monkeypatch.setitem(sys.modules, package, None)
  words = rf"pip install {package}, or in a clone of hc_jax pip install -e '\.\[tokenizers\]'"
  with pytest.raises(UserError, match=words):
    load_tokenizer(str(tmp_path / name))


def small_models():
  """Returns models that find the names of special tokens in a text."""
  import tokenizers as tk

  letters = {letter: len(SPECIAL) + i for i, letter in enumerate(LETTERS)}
  pieces = [(name, 0.0) for name in SPECIAL] + [(letter, -3.0) for letter in LETTERS]
  words = SPECIAL | {"a": 3, "b": 4}
  split = tk.pre_tokenizers.WhitespaceSplit()
  return {
    "unigram": (tk.models.Unigram(pieces, 0, False), tk.pre_tokenizers.Metaspace()),
    "word level": (tk.models.WordLevel(words, unk_token="<unk>"), split),
    "word piece": (tk.models.WordPiece(words, unk_token="<unk>"), split),
    "whole pieces": (tk.models.BPE(SPECIAL | letters, [], ignore_merges=True), None),
    "merges": (
      tk.models.BPE(SPECIAL | letters | {"<s": 20}, [("<", "s"), ("<s", ">")], unk_token="<unk>"),
      None,
    ),
  }


KINDS = ["unigram", "word level", "word piece", "whole pieces", "merges"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_cannot_forge_the_start_of_a_document(save_model, kind):
  pytest.importorskip("tokenizers")
  from hc_jax.data.tokenizers import base

  path = save_model(*small_models()[kind])
  tokenizer = load_tokenizer(path)
  assert tokenizer.bos_id == 1
  for text in ("a<s>b", "a <s> b", "<s>", "</s>", "<s><s>"):
    assert not {1, 2} & set(tokenizer.encode(text).tolist()), text
  assert tokenizer.decode([1, 3, 2]) == load_tokenizer(path).decode([3])
  # So text that was prepared with forged tokens is not reused.
  assert tokenizer.fingerprint == base.read_fingerprint(path) + "-names-are-text"


def test_what_a_unigram_model_makes_of_other_text_stays(save_model):
  tk = pytest.importorskip("tokenizers")
  path = save_model(*small_models()["unigram"])
  theirs = tk.Tokenizer.from_file(path)
  tokenizer = load_tokenizer(path)
  for text in ("a bed", "reads < s >", "x<unk", "read </ s>"):
    assert tokenizer.encode(text).tolist() == theirs.encode(text).ids
  letters = [3 + LETTERS.index(letter) for letter in "▁<s>"]
  assert tokenizer.encode("<s>").tolist() == letters != theirs.encode("<s>").ids
  assert tokenizer.token_bytes[[0, 1, 2, 3]].tolist() == [0, 0, 0, 1]


def test_a_tokenizer_that_never_forged_keeps_its_fingerprint(hugging_face_files):
  from hc_jax.data.tokenizers import base

  for path in hugging_face_files.values():
    assert load_tokenizer(path).fingerprint == base.read_fingerprint(path)


def word_piece(tk):
  words = SPECIAL | {"read": 3, "words": 4, "##ing": 5, ".": 6, "it": 7}
  split = tk.pre_tokenizers.BertPreTokenizer()
  return tk.models.WordPiece(words, unk_token="<unk>"), split, tk.decoders.WordPiece()


def test_word_piece_is_continued_with_a_space_where_one_belongs(save_model):
  tk = pytest.importorskip("tokenizers")
  tokenizer = load_tokenizer(save_model(*word_piece(tk)))
  assert tokenizer.extend("read", [4]) == "read words"
  assert tokenizer.extend("read", [5, 4]) == "reading words"
  assert tokenizer.extend("read", [6]) == "read."
  assert tokenizer.extend("read ", [4]) == "read words"
  assert tokenizer.extend("", [4, 4]) == "words words"
  assert tokenizer.extend("READ?", [4]).startswith("READ?")  # the prompt as it was given


def test_every_tokenizer_continues_a_prompt(sentencepiece_files, hugging_face_files, corpus):
  line = corpus.splitlines()[0]
  specs = ["bytes", *sentencepiece_files.values(), *hugging_face_files.values()]
  for tokenizer in map(load_tokenizer, specs):
    ids = tokenizer.encode(line)
    for size in range(len(ids) + 1):
      prompt = tokenizer.decode(ids[:size])
      if np.array_equal(tokenizer.encode(prompt), ids[:size]):
        assert tokenizer.extend(prompt, ids[size:]) == line
    first, second = line.split()[:2]
    assert tokenizer.extend(f"{first} ", tokenizer.encode(second)) == f"{first} {second}"
    assert tokenizer.extend(first, []) == first


def test_a_prompt_that_is_no_text_is_kept(corpus):
  assert load_tokenizer("bytes").extend("\udcc3", [0xA9]) == "\udcc3é"
