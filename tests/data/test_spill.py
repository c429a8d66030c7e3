"""Documents are ordered by the MD5 of "train" and their key, as by TFDS's shuffler."""

import hashlib
import itertools

import pytest

from hc_jax.data import spill


def make_groups(count):
  return [(f"{i}#0", [b"%d" % i, b"", b"x" * (i % 5)]) for i in range(count)]


@pytest.mark.parametrize("at_once", [1 << 20, 7, 1])
def test_groups_come_in_the_order_of_their_hashes(tmp_path, monkeypatch, at_once):
  monkeypatch.setattr(spill, "_SORTED_AT_ONCE", at_once)
  monkeypatch.setattr(spill, "_READ_AT_ONCE", 3)
  groups = make_groups(50)
  spill.write(str(tmp_path), iter(groups))
  in_order = sorted(groups, key=lambda group: hashlib.md5(b"train" + group[0].encode()).digest())
  expected = list(itertools.chain.from_iterable(texts for _, texts in in_order))
  assert list(spill.read(str(tmp_path))) == expected
  assert list(spill.read(str(tmp_path))) == expected  # again on a second read


def test_nothing_gives_nothing(tmp_path):
  spill.write(str(tmp_path), iter(()))
  assert list(spill.read(str(tmp_path))) == []


def test_groups_are_as_large_as_allowed_and_lose_nothing():
  texts = [b"a" * size for size in (3, 4, 3, 11, 1, 1, 8, 2)]
  groups = list(spill.groups(iter(texts), 10))
  assert [[len(text) for text in group] for group in groups] == [[3, 4, 3], [11], [1, 1, 8], [2]]
  assert not list(spill.groups(iter(()), 10))
