import pathlib
import subprocess
import sys
import sysconfig
import textwrap

import pytest

from hc_jax.data import sources
from hc_jax.data.builders import py_stdlib

ROOT = pathlib.Path(__file__).parents[2]


def texts(builder):
  return [text for example in builder.as_data_source(split="train") for text in example["text"]]


def make_library(root):
  """Writes a small imitation of a standard library."""
  contents = {
    "b.py": b"b = 1\n",
    "a/__init__.py": b"",
    "a/c.py": "c = 'é'\n".encode(),
    "latin.py": b"# -*- coding: latin-1 -*-\nx = '\xe9'\n",
    "notes.txt": b"no Python",
    "_sysconfigdata__linux.py": b"machine = 1\n",
    "test/test_b.py": b"x\n",
    "a/tests/t.py": b"x\n",
    "a/__pycache__/c.py": b"x\n",
    "site-packages/p.py": b"x\n",
  }
  for name, content in contents.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
  return str(root)


def test_which_files_of_the_library_are_read(tmp_path):
  found = [file.name for file in py_stdlib.find_sources(make_library(tmp_path))]
  assert found == ["a/__init__.py", "a/c.py", "b.py", "latin.py"]


def test_the_real_library_is_found():
  found = py_stdlib.find_sources()
  assert len(found) > 300 and "textwrap.py" in [file.name for file in found]
  assert all(file.path.startswith(sysconfig.get_path("stdlib")) for file in found)


def test_py_stdlib_builder(tmp_path):
  builder = py_stdlib.Builder(root=make_library(tmp_path / "lib"), data_dir=tmp_path / "out")
  assert builder.name == "py_stdlib"
  builder.prepare()
  assert sorted(texts(builder)) == [b"b = 1\n", "c = 'é'\n".encode()]
  assert builder.info.file_format.value == "array_record"
  source = sources.PyStdlib(str(tmp_path / "lib"))
  assert [entry[0] for entry in source.card["files"]] == [
    "a/__init__.py",
    "a/c.py",
    "b.py",
    "latin.py",
  ]


@pytest.mark.slow
def test_without_tensorflow_network_or_noise(tmp_path, make_lines):
  """Prepares and reads the dataset in a process without TensorFlow and without a network."""
  make_library(tmp_path / "lib")
  (tmp_path / "lib" / "long.py").write_text(make_lines(150_000))
  code = """
    import importlib.machinery, socket, sys

    finder = importlib.machinery.PathFinder
    find_spec = finder.find_spec
    def without_tensorflow(name, *args):
      return None if name == "tensorflow" else find_spec(name, *args)
    finder.find_spec = without_tensorflow

    def no_network(*args, **kwargs):
      raise AssertionError("no network")

    socket.socket.connect = socket.getaddrinfo = no_network

    from hc_jax import data
    from hc_jax.data.builders import py_stdlib
    find = py_stdlib.find_sources
    py_stdlib.find_sources = lambda root="": find(root or sys.argv[1])
    builder = py_stdlib.Builder
    py_stdlib.Builder = lambda root="", **kw: builder(root=sys.argv[1], **kw)
    py_stdlib.Builder.VERSION = builder.VERSION
    lines = []
    for _ in range(2):
      text = data.load_text("py_stdlib", data_dir=sys.argv[2], log=lines.append)
    batch = data.train_batches(text.train, length=64, batch_size=4, seed=0)[7]
    assert batch["inputs"].shape == (4, 64)
    assert len(lines) == 2, lines
    assert "tensorflow" not in sys.modules
  """
  result = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code), tmp_path / "lib", tmp_path / "prepared"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout == ""
  assert result.stderr == ""
