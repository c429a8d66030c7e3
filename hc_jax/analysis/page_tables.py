"""Options of a view: a table turned into a matrix, or into curves over its first column."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hc_jax.analysis.plots.style import short
from hc_jax.analysis.tables import Table

Option = dict[str, Any]


def site_matrix(
  name: str,
  rows: Sequence[Sequence[Any]],
  labels: Sequence[str],
  fractions: int,
  row_name: str,
  last: str,
  row_fractions: int | None = None,
) -> Option:
  """Returns a matrix option: a row for each site's input, a column for each source.

  Args:
    name: name of the option.
    rows: rows of a table whose last three cells are row, source and value. The sources of the
      embedding are `-fractions` to -1, and those of site k are `k * fractions` and following.
    labels: short name of each site, in order.
    fractions: m, columns for each source.
    row_name: description of a row, with "{}" for the site.
    last: description of the last row.
    row_fractions: rows for each site; `fractions` by default.
  """
  here = [f"{k} ({label})" for k, label in enumerate(labels)]
  inputs = [*(row_name.format(text) for text in here), last]
  outputs = ["embedding", *(f"output of site {text}" for text in here)]
  numbers = [str(k) for k in range(len(labels))]
  m = row_fractions or fractions
  return {
    "name": name,
    "down": row_name.removesuffix(" {}"),
    "across": "output of site (emb: the embedding)",
    "rows": slots(inputs, m, "slot"),
    "rowTicks": slots([*numbers, "end"], m),
    "columns": slots(outputs, fractions, "fraction"),
    "columnTicks": slots(["emb", *numbers], fractions),
    "values": matrix([(i, source + fractions, value) for *_, i, source, value in rows]),
  }


def slots(names: Sequence[str], count: int, what: str = "") -> list[str]:
  """Repeats each name `count` times, numbered as `what`.

  Without `what`, the first copy keeps the name and the others are empty.
  """
  if count == 1:
    return list(names)
  return [
    f"{name}, {what} {i}" if what else name * (i == 0) for name in names for i in range(count)
  ]


def curves(
  name: str, table: Table, names: Mapping[str, str], log: bool = False, label: str = ""
) -> Option:
  """Returns a curves option: columns of a table over its first column.

  Columns without any number are left out.

  Args:
    name: name of the option.
    table: table whose first column has sites, numbers of sites, or optimizer steps.
    names: name of each curve, by column.
    log: whether the value axis is logarithmic.
    label: label of the value axis; `name` if it is empty.
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
    option |= {"across": "site, from 0", "x": [f"site {x}" for x in first]}
  return option


def short_names(sites: Sequence[str]) -> list[str]:
  """Returns the short names of the sites, or the full names if two short names are equal."""
  names = [short(site) for site in sites]
  return names if len(set(names)) == len(names) else list(sites)


def matrix(cells: Iterable[tuple[int, int, float]]) -> list[list[float | None]]:
  """Returns rows made of `(row, column, value)` cells, with None in gaps; lengths may differ."""
  rows: list[list[float | None]] = []
  for i, j, value in cells:
    while len(rows) <= i:
      rows.append([])
    rows[i] += [None] * (j + 1 - len(rows[i]))
    rows[i][j] = value
  return rows


def groups(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, list[Sequence[Any]]]]:
  """Groups rows by their first cell, in the order of first appearance."""
  found: dict[Any, list[Sequence[Any]]] = {}
  for row in rows:
    found.setdefault(row[0], []).append(row)
  return list(found.items())


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def rounded(x: Any, digits: int) -> Any:
  """Rounds every float in nested dicts and lists to `digits`; NaN and infinity become None."""
  if isinstance(x, dict):
    return {key: rounded(value, digits) for key, value in x.items()}
  if isinstance(x, list):
    return [rounded(value, digits) for value in x]
  if isinstance(x, float | np.floating):
    return float(f"{x:.{digits}g}") if np.isfinite(x) else None
  return int(x) if isinstance(x, np.integer) else x
