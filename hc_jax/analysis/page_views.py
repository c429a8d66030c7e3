"""What the page of a report shows: each part's table as the plain lists that its script draws.

A view is a matrix or curves, with a title, a note, what a cell says when it is pointed at, and the
options that it switches between.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hc_jax.analysis.parts import Part
from hc_jax.analysis.plots.style import short
from hc_jax.analysis.tables import Table

View = dict[str, Any]
GAINS = {
  "amax_fwd": "Amax forward",
  "amax_bwd": "Amax backward",
  "norm_fwd": "norm forward",
  "norm_bwd": "norm backward",
}
STREAMS = {
  "stream_cosine": "cosine between streams, mean over pairs",
  "effective_read": "effective streams by |read|",
  "effective_write": "effective streams by |write|",
  "effective_energy": "effective streams by energy",
}


def _unfolded(part: Part) -> View:
  """C(0) of every network; rows and columns are layers."""
  options = []
  for name, rows in _groups(part.table.rows):
    size = 1 + max(row[1] for row in rows)
    m = part.fractions if size > len(part.labels) + 1 else 1
    options.append(_layers(name, rows, part.labels, m, "input of layer {}", "mean of the streams"))
  return {
    "kind": "matrix",
    "id": part.name,
    "title": "Unfolded connections, C(0): what each layer's input is made of",
    "note": "arXiv 2409.19606, Eq. 27 and Figure 7. Layers are sublayers, counted from 1; the last "
    "row is the mean of the streams at the end.",
    "label": "weight (no unit)",
    "scale": "signed",
    "say": "{c} into {r}: {v}",
    "hint": "Point at a cell: output of layer j into layer i.",
    "options": options,
  }


def _unfolded_streams(part: Part) -> View:
  options = [
    _layers(
      f"stream {stream}", rows, part.labels, part.fractions, "stream before layer {}", "the end", 1
    )
    for stream, rows in _groups(part.table.rows)
  ]
  return {
    "kind": "matrix",
    "id": part.name,
    "title": "What each stream holds, C(1) to C(n)",
    "note": "Eq. 28 and 29: the streams before each layer in terms of the embedding and the "
    "layers' outputs, mean over tokens.",
    "label": "weight (no unit)",
    "scale": "signed",
    "say": "{c} in the {r}: {v}",
    "hint": "Point at a cell: output of layer j in the stream before layer i.",
    "options": options,
  }


def _layers(
  name: str,
  rows: Sequence[Sequence[Any]],
  labels: Sequence[str],
  fractions: int,
  row_name: str,
  last: str,
  row_fractions: int | None = None,
) -> View:
  """A matrix whose rows are inputs of layers, and whose columns are the embedding and outputs."""
  here = [f"{k} ({label})" for k, label in enumerate(labels, 1)]
  inputs = [*(row_name.format(text) for text in here), last]
  outputs = ["embedding", *(f"output of layer {text}" for text in here)]
  numbers = [str(k) for k in range(len(labels) + 1)]
  m = row_fractions or fractions
  return {
    "name": name,
    "rows": _slots(inputs, m, "slot"),
    "rowTicks": _slots([*numbers[1:], "end"], m),
    "columns": _slots(outputs, fractions, "fraction"),
    "columnTicks": _slots(["emb", *numbers[1:]], fractions),
    "values": _matrix([row[-3:] for row in rows]),
  }


def _slots(names: Sequence[str], count: int, what: str = "") -> list[str]:
  if count == 1:
    return list(names)
  return [
    f"{name}, {what} {i}" if what else name * (i == 0) for name in names for i in range(count)
  ]


def _stream_ablation(part: Part) -> View:
  sites = list(dict.fromkeys(row[0] for row in part.table.rows))
  cells = [(stream, sites.index(site), kl) for site, stream, kl in part.table.rows]
  streams = [f"stream {i}" for i in range(1 + max(cell[0] for cell in cells))]
  option = {
    "name": "KL",
    "rows": streams,
    "rowTicks": streams,
    "columns": sites,
    "columnTicks": [short(site) for site in sites],
    "values": _matrix(cells),
  }
  return {
    "kind": "matrix",
    "id": part.name,
    "title": "Stream ablation: what the output loses",
    "note": "KL(clean || ablated) of the output distribution when one stream is zeroed before one "
    "layer, mean over tokens.",
    "label": "KL (nats per token), logarithmic colours",
    "scale": "log",
    "say": "{r} zeroed before {c}: KL {v} nats per token",
    "hint": "Point at a cell: stream s zeroed before layer l.",
    "options": [option],
  }


def _connections(part: Part) -> View:
  options = []
  for kind, rows_of, columns_of in (
    ("mix", "stream {}", "stream {}"),
    ("read", "slot {}", "stream {}"),
    ("write", "stream {}", "slot {}"),
  ):
    chosen = [row for row in part.table.rows if row[1] == kind]
    for site, rows in _groups(chosen):
      values = _matrix([row[2:] for row in rows])
      down, across = range(len(values)), range(max(map(len, values)))
      options.append(
        {
          "name": f"{kind} of {short(site)}",
          "rows": [rows_of.format(i) for i in down],
          "rowTicks": [rows_of.format(i) for i in down],
          "columns": [columns_of.format(i) for i in across],
          "columnTicks": [columns_of.format(i) for i in across],
          "values": values,
        }
      )
  return {
    "kind": "matrix",
    "id": part.name,
    "title": "Connections: read, write and mix of each site",
    "note": "Means over tokens. A mix carries the column's stream into the row's.",
    "label": "weight (no unit)",
    "scale": "signed",
    "say": "{c} into {r}: {v}",
    "hint": "Point at a cell: column into row.",
    "options": options,
  }


def _similarity(part: Part) -> View:
  names = {"p5": "5th percentile", "median": "median", "p95": "95th percentile"}
  return _lines(
    part,
    "Similarity of adjacent layer inputs",
    "Cosine of each site's input with the one before, over tokens (arXiv 2409.19606, Figure 3).",
    "cosine",
    [_series("cosine", part.table, names)],
  )


def _gains(part: Part) -> View:
  columns = part.table.columns
  options = []
  for head, what in (
    ("", "mix of the site"),
    ("composite_", "composite, from the site to the last"),
  ):
    names = {f"{head}{key}_mean": text for key, text in GAINS.items()}
    options.append(_series(f"gains: {what}", part.table, names, log=bool(head)))
    sigma = [c for c in columns if c.startswith(f"{head}sigma_") and c[-1].isdigit()]
    names = {c: f"σ{c.rsplit('_')[-1]}" for c in sigma}
    options.append(_series(f"singular values: {what}", part.table, names, log=bool(head)))
  distance = {"identity_distance_mean": "Frobenius norm of mix minus identity"}
  options.append(_series("identity distance", part.table, distance))
  return _lines(
    part,
    "Gains and singular values",
    "Amax: max |row sum| (forward), max |column sum| (backward), arXiv 2512.24880; norm: the same "
    "of |P|. Means over tokens.",
    "no unit",
    options,
  )


def _streams(part: Part) -> View:
  energy = [c for c in part.table.columns if c.startswith("energy_share_")]
  names = {c: f"stream {c.rsplit('_')[-1]}" for c in energy}
  effective = {c: text for c, text in STREAMS.items() if c.startswith("effective_")}
  options = [
    _series("share of the energy", part.table, names),
    _series("cosine between streams", part.table, {"stream_cosine": STREAMS["stream_cosine"]}),
    _series("effective streams", part.table, effective),
  ]
  note = "Of the streams that each site reads; means over tokens. Effective: exp of the entropy."
  return _lines(part, "Use of the streams", note, "no unit", options)


def _loss(part: Part) -> View:
  steps = part.table.rows
  names = {"train/loss": "training", "val/loss": "validation"}
  option = _series("loss", part.table, names, phrase="step {}")
  _at_steps(option, steps)
  note = "Against optimizer steps."
  return _lines(part, "Loss", note, "nats per token", [option] if option["series"] else [])


def _telemetry(part: Part) -> View:
  columns, options = part.table.columns[1:], []
  for name, heads, log in (
    ("gains of all mixes together", ("hc/amax_", "hc/gain_"), True),
    ("largest gains of a site", ("hc/site_",), True),
    ("share of the energy that the last site reads", ("hc/energy_share_",), False),
    ("off-diagonal mass, dynamic part / mean of maps", ("hc/offdiag", "hc/dynamic_ratio"), False),
    ("root mean square of the streams", ("hc/stream_rms",), False),
  ):
    names = {c: c.removeprefix("hc/") for c in columns if c.startswith(heads)}
    option = _series(name, part.table, names, log, "step {}")
    _at_steps(option, part.table.rows)
    options.append(option)
  note = "What train.telemetry_every logged, always on the same validation tokens."
  return _lines(part, "While it was trained", note, "no unit, against optimizer steps", options)


def _compared(part: Part) -> View:
  what = part.name.removeprefix("compare_")
  columns = part.table.columns
  option = _series(what, part.table, {c: c for c in columns[1:]}, phrase=f"{columns[0]} {{}}")
  if columns[0] == "step":
    _at_steps(option, part.table.rows)
  option["log"] = what == "gains"
  return _lines(part, f"Compared: {what}", "Of both networks.", "", [option])


def _lines(part: Part, title: str, note: str, label: str, options: Sequence[View]) -> View:
  return {
    "kind": "lines",
    "id": part.name,
    "title": title,
    "note": note,
    "label": label,
    "hint": "Point at the curves to read their values.",
    "options": [option for option in options if option["series"]],
  }


def _series(
  name: str, table: Table, names: Mapping[str, str], log: bool = False, phrase: str = "{}"
) -> View:
  """Columns of a table as curves over its first column; a column without a number is left out."""
  at = {column: i for i, column in enumerate(table.columns)}
  series = []
  for column, text in names.items():
    y = [row[at[column]] for row in table.rows] if column in at else []
    if any(_is_number(value) for value in y):
      series.append({"name": text, "y": y})
  x = [str(row[0]) for row in table.rows]
  return {
    "name": name,
    "log": log,
    "x": [phrase.format(text) for text in x],
    "ticks": [short(text) for text in x],
    "series": series,
  }


def _at_steps(option: View, rows: Sequence[Sequence[Any]]) -> None:
  """Places the points of curves by their step, and names some of these."""
  marks = {round(i * (len(rows) - 1) / 8) for i in range(9)}
  option["ticks"] = [str(row[0]) * (i in marks) for i, row in enumerate(rows)]
  option["positions"] = [row[0] for row in rows]


def _matrix(cells: Iterable[tuple[int, int, float]]) -> list[list[float | None]]:
  """Rows as long as they have numbers, None where there is none."""
  rows: list[list[float | None]] = []
  for i, j, value in cells:
    while len(rows) <= i:
      rows.append([])
    rows[i] += [None] * (j + 1 - len(rows[i]))
    rows[i][j] = value
  return rows


def _groups(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, list[Sequence[Any]]]]:
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


VIEWS = {
  "unfolded": _unfolded,
  "unfolded_streams": _unfolded_streams,
  "stream_ablation": _stream_ablation,
  "similarity": _similarity,
  "gains": _gains,
  "streams": _streams,
  "connections": _connections,
  "loss": _loss,
  "telemetry": _telemetry,
  "compare_loss": _compared,
  "compare_gains": _compared,
  "compare_similarity": _compared,
}
