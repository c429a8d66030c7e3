"""Formatting of the tables that commands print: aligned columns and sizes in bytes."""

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
  """Returns a line for each row, with aligned columns that are two spaces apart.

  Args:
    rows: rows of cells, all with the same number of cells.
    right: numbers (from 0) of columns that are aligned to the right.
  """
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = [
      cell.rjust(width) if i in right else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    lines.append("  ".join(cells).rstrip())
  return lines


def in_bytes(size: float) -> str:
  """Returns a number of bytes as text with three digits, such as "12.9 kB"."""
  for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
    if size >= unit:
      figure = size / unit
      return f"{figure:.{max(0, 3 - len(str(int(figure))))}f} {name}"
  return f"{size:.0f} B"
