"""Small texts for the data tests."""

import itertools
import random

import pytest


@pytest.fixture(scope="session")
def make_lines():
  """make_lines(num_bytes, seed) -> distinct lines of words, about so many bytes."""

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
  """load_text on files, with its log kept in load.lines."""
  from hc_jax.data import load_text

  def run(*files, **options):
    options = {"data_dir": str(tmp_path / "prepared"), "log": run.lines.append} | options
    return load_text("text_files", files=[str(file) for file in files], **options)

  run.lines = []
  return run


@pytest.fixture
def documents_of():
  """The documents of a token array, as text."""

  def get(data, split):
    pairs = itertools.pairwise(split.offsets)
    return [data.tokenizer.decode(split.tokens[start:end]) for start, end in pairs]

  return get
