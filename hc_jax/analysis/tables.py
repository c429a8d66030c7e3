"""Tables of numbers, written as CSV and printed as text."""

import csv
import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from hc_jax.durable import write_atomically
from hc_jax.tables import aligned


@dataclasses.dataclass(frozen=True)
class Table:
  """A table: names of columns, and rows of cells. NaN and None become empty cells in the CSV."""

  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]

  def write_csv(self, path: str | os.PathLike) -> None:
    """Writes a CSV file, with nine digits a number, enough to restore any float32."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(self.columns)
    writer.writerows([_cell(value, "{:.9g}") for value in row] for row in self.rows)
    write_atomically(os.fspath(path), file.getvalue())

  @staticmethod
  def number(value: Any) -> str:
    """Returns a number with four digits; "" if it is None or not finite."""
    return _cell(value, "{:.4g}")

  def text(self) -> str:
    """Returns the table as text in aligned columns, with four digits a number."""
    cells = [list(self.columns)] + [[self.number(v) or "-" for v in row] for row in self.rows]
    return "\n".join(aligned(cells, right=range(1, len(self.columns))))


def matrix_rows(values: np.ndarray, *head: Any) -> list[tuple]:
  """Returns rows `(*head, i, j, value)` for the finite entries of a matrix."""
  return [(*head, int(i), int(j), values[i, j]) for i, j in np.argwhere(np.isfinite(values))]


def _cell(value: Any, number: str) -> str:
  if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
    return ""
  return number.format(value) if isinstance(value, float | np.floating) else str(value)
