"""Fixtures of the data tests: small texts, and a loader."""

import itertools
import random

import pytest


@pytest.fixture(scope="session")
def make_lines():
  """Returns make_lines(num_bytes, seed), which makes about num_bytes of distinct lines of words."""

  def make(num_bytes: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 8))) for _ in range(300)]
    lines, size = [], 0
    while size < num_bytes:
      lines.append(" ".join(rng.choices(words, k=8)) + "\n")
      size += len(lines[-1])
    return "".join(lines)

  return make


@pytest.fixture
def load(tmp_path):
  """Returns load_text for files; its log goes to load.lines."""
  from hc_jax.data import load_text

  def run(*files, **options):
    options = {"data_dir": str(tmp_path / "prepared"), "log": run.lines.append} | options
    return load_text("text_files", files=[str(file) for file in files], **options)

  run.lines = []
  return run


@pytest.fixture
def documents_of():
  """Returns a function that gives the documents of a token array, as text."""

  def get(data, split):
    pairs = itertools.pairwise(split.offsets)
    return [data.tokenizer.decode(split.tokens[start:end]) for start, end in pairs]

  return get
