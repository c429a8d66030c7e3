"""benchmarks/soak.py with a few kills; by hand it runs with a hundred."""

import importlib.util
import pathlib

import pytest

FILE = pathlib.Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture
def program():
  spec = importlib.util.spec_from_file_location("soak", FILE)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.exhaustive
def test_a_few_kills_change_nothing(program, tmp_path, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "")
  said = []
  assert program.soak(3, seed=2, work=tmp_path, say=said.append) == []
  assert "| all | 3 | " in "\n".join(said)
  # The comparison notices a difference.
  metrics = tmp_path / "broken" / "metrics.jsonl"
  lines = metrics.read_text().splitlines(keepends=True)
  steps = len(lines) - 1
  metrics.write_text("".join([*lines, lines[-1]]))
  wrong = program.compare(tmp_path / "straight", tmp_path / "broken", steps)
  assert wrong == ["metrics.jsonl has a gap or a duplicate", "metrics.jsonl differs"]
  metrics.write_text("".join(lines).replace('"train/loss": ', '"train/loss": 1'))
  assert program.compare(tmp_path / "straight", tmp_path / "broken", steps) == [
    "metrics.jsonl differs"
  ]
