"""Numbers of a table as a page draws them: a matrix, or curves over the table's first column."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hc_jax.analysis.plots.style import short
from hc_jax.analysis.tables import Table

Option = dict[str, Any]


def layers(
  name: str,
  rows: Sequence[Sequence[Any]],
  labels: Sequence[str],
  fractions: int,
  row_name: str,
  last: str,
  row_fractions: int | None = None,
) -> Option:
  """A matrix whose rows are inputs of layers, and whose columns are the embedding and outputs."""
  here = [f"{k} ({label})" for k, label in enumerate(labels, 1)]
  inputs = [*(row_name.format(text) for text in here), last]
  outputs = ["embedding", *(f"output of layer {text}" for text in here)]
  numbers = [str(k) for k in range(len(labels) + 1)]
  m = row_fractions or fractions
  return {
    "name": name,
    "down": row_name.removesuffix(" {}"),
    "across": "output of layer (emb: the embedding)",
    "rows": slots(inputs, m, "slot"),
    "rowTicks": slots([*numbers[1:], "end"], m),
    "columns": slots(outputs, fractions, "fraction"),
    "columnTicks": slots(["emb", *numbers[1:]], fractions),
    "values": matrix([row[-3:] for row in rows]),
  }


def slots(names: Sequence[str], count: int, what: str = "") -> list[str]:
  """Each name `count` times, numbered by `what`; without it only the first keeps its name."""
  if count == 1:
    return list(names)
  return [
    f"{name}, {what} {i}" if what else name * (i == 0) for name in names for i in range(count)
  ]


def curves(
  name: str, table: Table, names: Mapping[str, str], log: bool = False, label: str = ""
) -> Option:
  """Columns of a table over its first column; a column without a number is left out.

  Args:
    name: of what is shown.
    table: its first column has sites, their numbers, or the steps of the optimizer.
    names: of the curves, by column.
    log: whether the axis of values is logarithmic.
    label: of that axis; the name, if it has no other.
  """
  at = {column: i for i, column in enumerate(table.columns)}
  found = []
  for column, text in names.items():
    y = [row[at[column]] for row in table.rows] if column in at else []
    if any(_is_number(value) for value in y):
      found.append({"name": text, "y": y})
  first, steps = [row[0] for row in table.rows], table.columns[0] == "step"
  sites = [str(x) for x in first] if steps else short_names([str(x) for x in first])
  option = {
    "name": name,
    "log": log,
    "label": label or name,
    "across": "optimizer step" if steps else "site: number of the block, branch",
    "x": [f"step {x}" if steps else x for x in sites],
    "ticks": sites,
    "series": found,
  }
  if steps:
    option["positions"] = first
  elif all(isinstance(x, int) for x in first):
    option |= {"across": "site, from the first", "x": [f"site {x}" for x in first]}
  return option


def short_names(sites: Sequence[str]) -> list[str]:
  """The sites' short names, or their full ones where two have the same."""
  names = [short(site) for site in sites]
  return names if len(set(names)) == len(names) else list(sites)


def matrix(cells: Iterable[tuple[int, int, float]]) -> list[list[float | None]]:
  """Rows as long as they have numbers, None where there is none."""
  rows: list[list[float | None]] = []
  for i, j, value in cells:
    while len(rows) <= i:
      rows.append([])
    rows[i] += [None] * (j + 1 - len(rows[i]))
    rows[i][j] = value
  return rows


def groups(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, list[Sequence[Any]]]]:
  """By their first cell, in order."""
  found: dict[Any, list[Sequence[Any]]] = {}
  for row in rows:
    found.setdefault(row[0], []).append(row)
  return list(found.items())


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def rounded(x: Any, digits: int) -> Any:
  """Numbers of so many digits, None where one is not defined."""
  if isinstance(x, dict):
    return {key: rounded(value, digits) for key, value in x.items()}
  if isinstance(x, list):
    return [rounded(value, digits) for value in x]
  if isinstance(x, float | np.floating):
    return float(f"{x:.{digits}g}") if np.isfinite(x) else None
  return int(x) if isinstance(x, np.integer) else x
