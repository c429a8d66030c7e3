"""Views of the report page: each part's table as plain lists that the page's script draws.

A view is a matrix or a set of curves. It has a title, a note, a text for the cell that is pointed
at, and the options between which the reader switches.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hc_jax.analysis.page_tables import Option, curves, groups, matrix, short_names, site_matrix
from hc_jax.analysis.parts import Part
from hc_jax.analysis.plots.style import short

View = dict[str, Any]
LOSS = "loss (nats per token)"
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
  """Returns the view of C(0), with an option for each network; rows and columns are sites."""
  options = []
  for name, rows in groups(part.table.rows):
    size = 1 + max(row[1] for row in rows)
    m = part.fractions if size > len(part.labels) + 1 else 1
    options.append(
      site_matrix(name, rows, part.labels, m, "input of site {}", "mean of the streams")
    )
  return {
    "kind": "matrix",
    "id": part.name,
    "title": "Unfolded connections, C(0): what each layer's input is made of",
    "note": "arXiv 2409.19606, Eq. 27 and Figure 7. Sites are numbered from 0: attention of block "
    "b is 2b. The last row is the mean of the streams at the end.",
    "label": "weight (no unit)",
    "scale": "signed",
    "say": "{c} into {r}: {v}",
    "hint": "Point at a cell, or tap on it: output of site j into site i.",
    "options": options,
  }


def _unfolded_streams(part: Part) -> View:
  options = [
    site_matrix(
      f"stream {stream}", rows, part.labels, part.fractions, "stream before site {}", "the end", 1
    )
    for stream, rows in groups(part.table.rows)
  ]
  return {
    "kind": "matrix",
    "id": part.name,
    "title": "What each stream holds, C(1) to C(n)",
    "note": "Eq. 28 and 29: each stream, before each site, as a weighted sum of the embedding and "
    "the outputs of the sites; means over tokens.",
    "label": "weight (no unit)",
    "scale": "signed",
    "say": "{c} in the {r}: {v}",
    "hint": "Point at a cell, or tap on it: output of site j in the stream before site i.",
    "options": options,
  }


def _stream_ablation(part: Part) -> View:
  paths = list(dict.fromkeys(row[0] for row in part.table.rows))
  cells = [(stream, paths.index(site), kl) for site, stream, kl in part.table.rows]
  streams = [f"stream {i}" for i in range(1 + max(cell[0] for cell in cells))]
  names = short_names(paths)
  option = {
    "name": "KL",
    "down": "stream set to zero",
    "across": "before site (block, branch)",
    "rows": streams,
    "rowTicks": streams,
    "columns": names,
    "columnTicks": names,
    "values": matrix(cells),
  }
  return {
    "kind": "matrix",
    "id": part.name,
    "title": "Stream ablation: what the output loses",
    "note": "KL(clean || ablated) of the output distribution when one stream is zeroed before one "
    "site, mean over tokens.",
    "label": "KL (nats per token), logarithmic colours",
    "scale": "log",
    "say": "{r} zeroed before {c}: KL {v} nats per token",
    "hint": "Point at a cell, or tap on it: stream i zeroed before a site.",
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
    for site, rows in groups(chosen):
      values = matrix([row[2:] for row in rows])
      down, across = range(len(values)), range(max(map(len, values)))
      options.append(
        {
          "name": f"{kind} of {short(site)}",
          "down": f"into {rows_of.split()[0]}",
          "across": f"from {columns_of.split()[0]}",
          "rows": [rows_of.format(i) for i in down],
          "rowTicks": [str(i) for i in down],
          "columns": [columns_of.format(i) for i in across],
          "columnTicks": [str(i) for i in across],
          "values": values,
        }
      )
  return {
    "kind": "matrix",
    "id": part.name,
    "title": "Connections: read, write and mix of each site",
    "note": "Means over tokens. A mix carries the stream of the column into the stream of the row.",
    "label": "weight (no unit)",
    "scale": "signed",
    "say": "{c} into {r}: {v}",
    "hint": "Point at a cell, or tap on it: column into row.",
    "options": options,
  }


def _similarity(part: Part) -> View:
  names = {"p5": "5th percentile", "median": "median", "p95": "95th percentile"}
  return _lines(
    part,
    "Similarity of adjacent layer inputs",
    "Cosine of each site's input with that of the site before (arXiv 2409.19606, Figure 3).",
    [curves("cosine", part.table, names)],
  )


def _gains(part: Part) -> View:
  columns = part.table.columns
  options = []
  for head, what in (
    ("", "mix of the site"),
    ("composite_", "composite, from the site to the last"),
  ):
    names = {f"{head}{key}_mean": text for key, text in GAINS.items()}
    options.append(curves(f"gains: {what}", part.table, names, bool(head), "gain (no unit)"))
    sigma = [c for c in columns if c.startswith(f"{head}sigma_") and c[-1].isdigit()]
    names = {c: f"σ{c.rsplit('_')[-1]}" for c in sigma}
    options.append(curves(f"singular values: {what}", part.table, names, bool(head), "σ (no unit)"))
  distance = {"identity_distance_mean": "Frobenius norm of mix minus identity"}
  options.append(curves("identity distance", part.table, distance, label="norm (no unit)"))
  return _lines(
    part,
    "Gains and singular values",
    "Amax: max |row sum| (forward), max |column sum| (backward), arXiv 2512.24880. Norm: the same "
    "for |P|. Means over tokens.",
    options,
  )


def _streams(part: Part) -> View:
  energy = [c for c in part.table.columns if c.startswith("energy_share_")]
  names = {c: f"stream {c.rsplit('_')[-1]}" for c in energy}
  effective = {c: text for c, text in STREAMS.items() if c.startswith("effective_")}
  options = [
    curves("share of the energy", part.table, names),
    curves("cosine between streams", part.table, {"stream_cosine": STREAMS["stream_cosine"]}),
    curves("effective streams", part.table, effective),
  ]
  note = "Streams that each site reads, means over tokens. Effective: exp of the entropy."
  return _lines(part, "Use of the streams", note, options)


def _loss(part: Part) -> View:
  names = {"train/loss": "training", "val/loss": "validation"}
  note = "Against optimizer steps."
  return _lines(part, "Loss", note, [curves("loss", part.table, names, label=LOSS)])


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
    options.append(curves(name, part.table, names, log))
  note = "Logged during training (train.telemetry_every), always on the same validation tokens."
  return _lines(part, "During training", note, options)


def _compared(part: Part) -> View:
  what = part.name.removeprefix("compare_")
  title, note, label = {
    "loss": ("Loss", "Both runs, against optimizer steps.", LOSS),
    "gains": ("Composite gains", "Both networks, means over tokens.", "gain (no unit)"),
    "similarity": (
      "Similarity of adjacent layer inputs",
      "Both networks: cosine of each site's input with the one before, median over tokens.",
      "cosine",
    ),
  }[what]
  named = {c: [c, what] for c in part.table.columns[1:]}
  if what == "gains":  # two definitions of a gain, one picture each
    named = {c: c.rsplit(", ", 1) for c in named}
  options = []
  for name in dict.fromkeys(name for _, name in named.values()):
    names = {c: text for c, (text, which) in named.items() if which == name}
    options.append(curves(name, part.table, names, what == "gains", label))
  return _lines(part, title, note, options)


def _lines(part: Part, title: str, note: str, options: Sequence[Option]) -> View:
  return {
    "kind": "lines",
    "id": part.name,
    "title": title,
    "note": note,
    "hint": "Point at the curves, or tap on them, to read their values.",
    "options": [option for option in options if option["series"]],
  }


VIEWS: dict[str, Callable[[Part], View]] = {
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
