"""Cached programs belong to the user, and a damaged entry costs one compilation."""

import functools
import os
import random
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compilation_cache as internals
from jax.experimental.compilation_cache import compilation_cache

from hc_jax.train import compile_cache
from hc_jax.train.compilations import Compilations


@pytest.fixture
def home(tmp_path, monkeypatch):
  """Sets a new home folder, and removes the suite's cache folder from JAX."""
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
  before = {name: jax.config.values[name] for name in names}
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
  yield tmp_path
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def compiled(home, said=None):
  """Compiles a small program with the cache; returns its value, hits and misses."""
  jax.clear_caches()
  log = (said if said is not None else []).append
  with compile_cache.cache("kept", str(home / "run"), log), Compilations() as counts:
    value = jax.jit(lambda x: jnp.sin(x) * 3 + x[::-1])(np.arange(64.0, dtype=np.float32))
  return np.asarray(value).tobytes(), counts.hits, counts.misses


def entries(home):
  (folder,) = (home / "kept").iterdir()
  return sorted(folder.iterdir())


@pytest.fixture(params=["zlib", "zstandard"])
def compression(request, monkeypatch):
  """Replaces JAX's compression of entries; like `zstandard`, it writes no checksum."""
  if request.param == "zstandard":
    frames = types.SimpleNamespace(
      ZstdCompressor=lambda: types.SimpleNamespace(compress=bytes),
      ZstdDecompressor=lambda: types.SimpleNamespace(decompress=bytes),
    )
    monkeypatch.setattr(internals, "zstandard", frames)
    monkeypatch.setattr(internals, "zstd", None)


def test_a_damaged_entry_costs_one_compilation_once(home, compression):
  value, hits, misses = compiled(home)
  assert hits == 0 and misses > 0
  _, kept, misses = compiled(home)
  assert kept > 0 and misses == 0
  rng = random.Random(0)
  files = entries(home)
  for path in files:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
  said = []
  assert compiled(home, said) == (value, 0, kept)
  assert len(said) == kept and "an entry is damaged" in said[0]
  assert entries(home) == files
  assert compiled(home, said) == (value, kept, 0) and len(said) == kept


def test_any_change_of_an_entry_is_noticed(tmp_path):
  """Tries forty flipped bits, truncation, another entry's name, and another user's key."""
  kept = compile_cache.Entries(str(tmp_path), b"k" * 32, lambda _: None)
  value = random.Random(1).randbytes(500)
  rng = random.Random(0)

  def changed(change):
    kept.put("a", value)
    path = tmp_path / "a"
    path.write_bytes(change(path.read_bytes()))
    assert kept.get("a") is None and not path.exists()

  def flip(content, bit):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return flipped

  for bit in rng.sample(range(8 * 532), 40):
    changed(functools.partial(flip, bit=bit))
  for size in (0, 10, 32, 531):
    changed(lambda content, size=size: content[:size])
  changed(lambda content: content + b"x")
  kept.put("b", value)
  changed(lambda _: (tmp_path / "b").read_bytes())
  (tmp_path / "theirs").mkdir()
  compile_cache.Entries(str(tmp_path / "theirs"), b"K" * 32).put("a", value)
  changed(lambda _: (tmp_path / "theirs" / "a").read_bytes())
  kept.put("a", value)
  assert kept.get("a") == value and kept.get("absent") is None
  assert sorted(os.listdir(tmp_path)) == ["a", "b", "theirs"]


def test_the_folder_and_the_key_are_the_users_alone(home):
  umask = os.umask(0)
  try:
    compiled(home)
  finally:
    os.umask(umask)
  (folder,) = (home / "kept").iterdir()
  key = home / "home" / ".cache" / "hc_jax" / "compile.key"
  assert (folder.stat().st_mode & 0o777, key.stat().st_mode & 0o777) == (0o700, 0o600)
  os.chmod(folder, 0o777)
  misses = compiled(home)[1]
  assert misses > 0 and folder.stat().st_mode & 0o777 == 0o700


def others(path):
  """Makes a path look like another user's to this process."""

  def lstat(asked):
    found = os.stat(asked, follow_symlinks=False)
    if str(asked) != str(path):
      return found
    return types.SimpleNamespace(st_mode=found.st_mode, st_uid=found.st_uid + 1)

  return lstat


@pytest.mark.parametrize("whose", ["folder", "key"])
@pytest.mark.parametrize("how", ["owner", "mode", "link"])
def test_what_is_not_the_users_alone_is_not_used(home, monkeypatch, whose, how):
  compiled(home)
  key = home / "home" / ".cache" / "hc_jax" / "compile.key"
  path = key if whose == "key" else next((home / "kept").iterdir())
  if how == "owner":
    monkeypatch.setattr(compile_cache.os, "lstat", others(path))
  elif how == "mode":
    os.chmod(path, 0o755)
    monkeypatch.setattr(compile_cache.os, "chmod", lambda *_: None)  # a disk without modes
  else:
    path.rename(home / "moved")
    path.symlink_to(home / "moved")
  said = []
  _, hits, misses = compiled(home, said)
  assert (hits, misses) == (0, 0) and len(said) == 1
  assert said[0].startswith(f"no compilation cache: {path}: it is not this user's alone (owner ")


def test_nobody_foretells_the_folder(home, monkeypatch):
  compiled(home)
  monkeypatch.setenv("HOME", str(home / "another"))
  compiled(home)
  assert len(list((home / "kept").iterdir())) == 2


def test_a_folder_that_jax_was_given_is_left_to_jax(home):
  jax.config.update("jax_compilation_cache_dir", str(home / "given"))
  compiled(home)
  assert not (home / "kept").exists() and (home / "given").is_dir()
