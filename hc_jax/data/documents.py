"""Documents: pieces of text of at most 64 KiB, cut at line ends, identified by a digest."""

import hashlib
import io
from collections.abc import Iterator

# Longer texts are cut, so that even one long file gives training and validation documents.
MAX_BYTES = 64 * 1024

EMPTY = "the text is empty: no document has any content; give other text"


def cut(text: bytes, limit: int = MAX_BYTES) -> Iterator[bytes]:
  """Cuts UTF-8 `text` into pieces of at most `limit` bytes, at line ends if possible.

  The joined pieces equal `text`. A line longer than `limit` is cut between two UTF-8 characters.
  Empty text has no pieces.
  """
  if len(text) > limit:
    yield from cut_stream(io.BytesIO(text), limit)
  elif text:
    yield text


def cut_stream(stream: io.BufferedIOBase, limit: int = MAX_BYTES) -> Iterator[bytes]:
  """Cuts a binary stream as `cut` does, with at most one piece in memory."""
  if limit < 4:
    raise ValueError(f"a piece must hold any UTF-8 character; limit must be at least 4: {limit}")
  rest = b""
  while True:
    block = rest + _read_exactly(stream, limit + 1 - len(rest))
    if len(block) <= limit:
      if block:
        yield block
      return
    end = _cut_position(block, limit)
    yield block[:end]
    rest = block[end:]


def _read_exactly(stream: io.BufferedIOBase, size: int) -> bytes:
  """Reads `size` bytes, or fewer at the end. A loop is needed, since gzip may give short reads."""
  parts = []
  while size > 0 and (part := stream.read(size)):
    parts.append(part)
    size -= len(part)
  return b"".join(parts)


def _cut_position(block: bytes, limit: int) -> int:
  line_end = block.rfind(b"\n", 0, limit) + 1
  if line_end:
    return line_end
  end = limit
  while end > limit - 4 and (block[end] & 0xC0) == 0x80:  # inside a UTF-8 character
    end -= 1
  return end


def digest(document: bytes) -> int:
  """Returns a uniform 64-bit hash of a document, which decides its split and finds duplicates."""
  return int.from_bytes(hashlib.blake2b(document, digest_size=8).digest(), "big")
