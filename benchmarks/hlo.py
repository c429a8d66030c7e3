"""Memory traffic of a compiled program: the bytes that each kernel of XLA's HLO reads and writes.

Every operand and every output of a kernel counts once, as if there were no caches. If a fusion
reads slices or writes into a part of a buffer, only that part counts. The count is exact for arrays
that are materialised in memory; it does not predict time.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b(pred|bf16|c64|c128|[fsu]\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
# These operations name memory and move none.
_FREE = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
  *("partition-id", "replica-id", "opt-barrier", "add-dependency", "domain"),
}
_VIEWS = {"bitcast", "reshape"}
_SLICES = {"slice", "dynamic-slice"}


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of a type: its dtype by XLA's name, and its shape."""

  dtype: str
  shape: tuple[int, ...]

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def bytes(self) -> int:
    bits = _BITS.get(self.dtype) or int(re.match(r"[fsu](\d+)", self.dtype)[1])
    return self.size * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of HLO."""

  name: str
  op: str
  outputs: tuple[Array, ...]
  operands: tuple[str, ...]
  arguments: str  # the text between the parentheses
  attributes: str
  is_root: bool

  @property
  def bytes(self) -> int:
    return sum(array.bytes for array in self.outputs)

  def called(self, *keys: str) -> str | None:
    """Returns the name of the computation in the first attribute among `keys`, or None."""
    found = re.search(rf"\b(?:{'|'.join(keys)})=%?([\w.\-]+)", self.attributes)
    return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A kernel: the number of its runs, and the bytes that each run reads and writes."""

  instruction: Instruction
  times: int
  read: int
  written: int
  is_copy: bool  # whether it only moves an array

  @property
  def bytes(self) -> int:
    return self.times * (self.read + self.written)


class Program:
  """A parsed HLO module."""

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    current = None
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
      if head := _COMPUTATION.match(line):
        current = self.computations.setdefault(head[2], {})
        if head[1]:
          self.entry = head[2]
      elif line.startswith("}"):
        current = None
      elif current is not None and (found := _INSTRUCTION.match(line)):
        instruction = _instruction(*found.groups())
        current[instruction.name] = instruction

  def kernels(self) -> Iterator[Kernel]:
    """Yields all kernels; kernels in loops have the loop's trip count."""
    yield from self._walk(self.entry, 1)

  def _walk(self, name: str, times: int) -> Iterator[Kernel]:
    body = self.computations[name]
    for instruction in body.values():
      op = instruction.op
      if op in _FREE or op.endswith(("-done", "-update")):
        continue
      if op == "while":
        trips = re.search(r"known_trip_count\D*(\d+)", instruction.attributes)
        trips = int(trips[1]) if trips else 1
        yield from self._walk(instruction.called("body"), times * trips)
      elif op in ("call", "async-start", "conditional"):
        inner = instruction.called("to_apply", "calls", "true_computation", "called_computations")
        if inner in self.computations:
          yield from self._walk(inner, times)
      else:
        yield self._kernel(instruction, body, times)

  def _kernel(self, instruction, body, times) -> Kernel:
    op, fused = instruction.op, None
    if op.startswith("fusion"):
      fused = self.computations.get(instruction.called("calls"))
    written = instruction.bytes
    if op == "custom-call":  # the workspace of a matrix product is not an output
      written -= sum(array.bytes for array in instruction.outputs if array.dtype == "s8")
    if op.endswith("-start") and op != "fusion-start":  # the output repeats the operand
      written = max(array.bytes for array in instruction.outputs)
    read = 0
    for name in dict.fromkeys(instruction.operands):
      full = body[name].bytes if name in body else 0
      if fused is not None:
        full = _read_by_fusion(fused, instruction.operands.index(name), full)
      elif op in _SLICES:
        full = min(full, written)
      read += full
    if fused is not None:
      written = _written_by_fusion(fused)
    elif op == "dynamic-update-slice":
      read = written = body[instruction.operands[1]].bytes
    ops = {i.op for i in fused.values()} if fused is not None else {op.removesuffix("-start")}
    moves = ops - {"parameter", "bitcast", "reshape", "tuple", "constant"}
    is_copy = bool(moves) and moves <= {"copy", "transpose"}
    return Kernel(instruction, times, read, written, is_copy)


def _instruction(root: str | None, name: str, rest: str) -> Instruction:
  end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
  type_text, rest = rest[:end], rest[end:].lstrip()
  start = rest.index("(")
  end = _closing(rest, start)
  arguments = rest[start + 1 : end]
  outputs = tuple(
    Array(dtype, tuple(int(size) for size in shape.split(",") if size))
    for dtype, shape in _ARRAY.findall(type_text)
  )
  op = rest[:start]
  operands = () if op in ("constant", "parameter") else tuple(_NAME.findall(arguments))
  return Instruction(name, op, outputs, operands, arguments, rest[end + 1 :], bool(root))


def _closing(text: str, start: int) -> int:
  """Returns the position of the parenthesis that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[i], 0)
    if depth == 0:
      return i
  raise ValueError(f"no parenthesis closes in {text[start : start + 80]!r}")


def _read_by_fusion(fused: dict[str, Instruction], index: int, full: int) -> int:
  """Returns the bytes that a fusion reads from operand `index`; slices count by their size."""
  names = {i.name for i in fused.values() if i.op == "parameter" and i.arguments == str(index)}
  read = 0
  for instruction in fused.values():
    if not names & set(instruction.operands):
      continue
    if instruction.op in _VIEWS:
      names.add(instruction.name)
    elif instruction.op in _SLICES:
      read += instruction.bytes
    elif instruction.op == "dynamic-update-slice" and instruction.operands[0] in names:
      continue  # written in place
    elif instruction.op != "tuple":
      return full
  return min(full, read)


def _written_by_fusion(fused: dict[str, Instruction]) -> int:
  root = next(i for i in fused.values() if i.is_root)

  def written(instruction):
    shown = instruction
    while instruction.op in _VIEWS and instruction.operands[0] in fused:
      instruction = fused[instruction.operands[0]]
    if instruction.op == "dynamic-update-slice":
      return fused[instruction.operands[1]].bytes
    return 0 if instruction.op == "parameter" else shown.bytes

  if root.op == "tuple":
    return sum(written(fused[name]) for name in root.operands)
  return written(root)
