import gzip
import io

import pytest

from hc_jax.data import documents


@pytest.mark.parametrize("limit", [4, 5, 7, 16, 1000])
@pytest.mark.parametrize(
  "text",
  [
    "",
    "a",
    "ab\ncd\n",
    "one line that is longer than the limit",
    "é€😀" * 9,
    "\n" * 40,
    "x\r\ny\n",
  ],
)
def test_pieces_joined_are_the_text_and_none_is_too_long(text, limit):
  pieces = list(documents.cut(text.encode(), limit))
  assert b"".join(pieces).decode() == text
  assert all(0 < len(piece) <= limit for piece in pieces)
  for piece in pieces:
    piece.decode()  # never inside a character


@pytest.mark.parametrize("limit", [8, 9, 11])
def test_cuts_at_line_ends_as_late_as_possible(limit):
  assert list(documents.cut(b"aaa\nbbb\nccc\n", limit)) == [b"aaa\nbbb\n", b"ccc\n"]


def test_text_of_exactly_the_limit_is_one_piece():
  assert list(documents.cut(b"a" * documents.MAX_BYTES)) == [b"a" * documents.MAX_BYTES]
  assert len(list(documents.cut(b"a" * (documents.MAX_BYTES + 1)))) == 2


def test_stream_with_short_reads_gives_the_same_pieces():
  text = b"".join(b"line %d\n" % i for i in range(5000))
  with gzip.open(io.BytesIO(gzip.compress(text))) as stream:
    assert list(documents.cut_stream(stream, 300)) == list(documents.cut(text, 300))


def test_digest_is_of_the_content_and_spreads():
  assert documents.digest(b"a") == documents.digest(b"a") != documents.digest(b"b")
  digests = [documents.digest(b"%d" % i) / 2**64 for i in range(4000)]
  assert 0.08 < sum(d < 0.1 for d in digests) / 4000 < 0.12
