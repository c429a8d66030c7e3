"""Parsing of JSON lines too long for memory: long strings go to a file while they are read."""

import dataclasses
import json
import re
import secrets
from collections.abc import Iterable
from typing import Any, BinaryIO

# Longer lines (in bytes) are read in pieces; strings longer than _LONG are then moved to a file.
LIMIT = 4 << 20
_LONG = 64 << 10
# Most bytes at the end of a piece that can belong to an incomplete character: a surrogate pair is
# two escapes of six bytes.
_HALF = 12
_STRUCTURE = re.compile(rb'["\[\]{}]')


@dataclasses.dataclass(frozen=True)
class Aside:
  """Long string that was moved to a file.

  Attributes:
    start, stop: range of its UTF-8 bytes in the file.
  """

  start: int
  stop: int


def parse(pieces: Iterable[bytes], aside: BinaryIO) -> Any:
  """Parses one JSON value, in memory that does not grow with the value.

  Args:
    pieces: bytes of the value, in pieces.
    aside: file to write long strings to.

  Returns:
    The value as from `json.loads`, with two exceptions. A string of more than 64 KiB in the
    outermost object is an `Aside`. Values nested deeper than that object's own values are left out,
    unchecked.

  Raises:
    UnicodeError: a long string is not valid Unicode.
    ValueError: the bytes are not JSON, or more than 4 MiB remain without long and nested values.
  """
  outline = _Outline(aside)
  rest = b""
  for piece in pieces:
    piece = rest + piece
    # A backslash at the end is kept for the next piece, so that no escape is divided.
    rest = b"\\" if (len(piece) - len(piece.rstrip(b"\\"))) % 2 else b""
    outline.add(piece[: len(piece) - len(rest)])
  return outline.parse(rest)


class _Outline:
  """Collector of a JSON value without its long strings and nested values."""

  def __init__(self, aside: BinaryIO) -> None:
    self._aside = aside
    self._outline = bytearray()
    self._depth = 0
    self._string: bytes | None = None  # the part of a string read so far, undecoded
    self._start = 0  # start of a long string in the file
    self._is_long = False
    self._places: dict[str, Aside] = {}
    self._name = secrets.token_hex(8)  # random placeholder of a long string, unknown to any text

  def add(self, piece: bytes) -> None:
    position = 0
    while position < len(piece):
      read = self._read_outside if self._string is None else self._read_inside
      position = read(piece, position)
      if len(self._outline) > LIMIT:
        raise ValueError(f"it has more than {LIMIT >> 20} MiB besides long texts and nested values")

  def _read_outside(self, piece: bytes, position: int) -> int:
    """Reads up to the next string; returns the position after it."""
    found = _STRUCTURE.search(piece, position)
    end = found.end() if found else len(piece)
    mark = found.group() if found else b""
    inside = self._depth
    if mark == b'"':
      self._string = b""
      end -= 1
    elif mark:
      self._depth += 1 if mark in b"[{" else -1
    if inside <= 1:
      self._outline += piece[position:end]
    elif self._depth <= 1:
      self._outline += mark
    return found.end() if found else end

  def _read_inside(self, piece: bytes, position: int) -> int:
    """Reads to the end of a string; returns the position after it."""
    quote = piece.find(b'"', position)
    while quote >= 0 and _is_escaped(piece, position, quote):
      quote = piece.find(b'"', quote + 1)
    end = quote if quote >= 0 else len(piece)
    if self._depth <= 1:
      self._string += piece[position:end]
      if len(self._string) > _LONG:
        self._set_aside(is_end=quote >= 0)
    if quote >= 0:
      self._end_string()
      return quote + 1
    return end

  def _set_aside(self, is_end: bool) -> None:
    if not self._is_long:
      self._is_long, self._start = True, self._aside.tell()
    self._string = _decode(self._string, is_end, self._aside)

  def _end_string(self) -> None:
    if self._is_long:
      if self._string:
        self._string = _decode(self._string, True, self._aside)
      name = f"{self._name}:{len(self._places)}"
      self._places[name] = Aside(self._start, self._aside.tell())
      self._string = name.encode()
    if self._depth <= 1:
      self._outline += b'"%b"' % self._string
    self._string, self._is_long = None, False

  def parse(self, rest: bytes) -> Any:
    value = _loads(bytes(self._outline) + (b"" if self._string is None else b'"') + rest)
    if isinstance(value, dict):
      return {k: self._places.get(v, v) if isinstance(v, str) else v for k, v in value.items()}
    return value


def _is_escaped(piece: bytes, start: int, quote: int) -> bool:
  first = quote
  while first > start and piece[first - 1] == 0x5C:
    first -= 1
  return (quote - first) % 2 == 1


def _decode(raw: bytes, is_end: bool, file: BinaryIO) -> bytes:
  """Writes a piece of a JSON string as UTF-8; returns the incomplete character at its end."""
  shortest = max(len(raw) - _HALF, 0)
  for cut in range(len(raw), shortest - 1, -1):
    try:
      text = _loads(b'"%b"' % raw[:cut])
    except ValueError:
      if is_end or cut == shortest:
        raise
      continue
    if is_end or cut == shortest or not "\ud800" <= text[-1:] <= "\udbff":
      break
  file.write(text.encode())
  return raw[cut:]


def _loads(raw: bytes) -> Any:
  return json.loads(raw.decode("utf-8", "surrogatepass"))
