"""The report on a model: figures, their numbers as CSV, one HTML page, and printed tables."""

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hc_jax.analysis import findings, measures, page, plots, spectra
from hc_jax.analysis.collect import Site
from hc_jax.analysis.parts import Part
from hc_jax.analysis.parts import ablation_part as ablation_part
from hc_jax.analysis.parts import look as look
from hc_jax.analysis.parts import loss_part as loss_part
from hc_jax.analysis.parts import telemetry_part as telemetry_part
from hc_jax.analysis.tables import Table
from hc_jax.durable import write_atomically

PAGE, FINDINGS = "analysis.html", "findings.md"
PAPER = "arXiv 2409.19606 found in its networks"


def describe(sites: Mapping[str, Site]) -> str:
  """Returns a short description of a network's maps: "n = 4, dynamic" or "plain residual"."""
  found = list(sites.values())
  counts = sorted({site.streams.shape[-2] for site in found})
  parts = sorted({site.coefs.write.shape[-1] for site in found})
  text = f"n = {', '.join(map(str, counts))}"
  if parts != [1]:
    text += f", m = {', '.join(map(str, parts))}"
  if measures.is_residual(found):
    return "plain residual"
  return f"{text}, {'dynamic' if measures.is_dynamic(found) else 'static'}"


def write_report(
  sites: Mapping[str, Site],
  out: str | os.PathLike,
  title: str = "",
  log: Callable[[str], None] = print,
  formats: Sequence[str] = plots.FORMATS,
  more: Sequence[Part] = (),
  left_out: Mapping[str, str] | None = None,
) -> list[str]:
  """Writes all figures and tables about the sites of one model into a folder.

  Each figure is written in every format, with its numbers as CSV. The findings are written as
  `findings.md` too, and everything together as one page, `analysis.html`.

  Args:
    sites: sites of any model, from `collect_sites`.
    out: folder; it is made if it does not exist.
    title: title above every figure.
    log: function that receives the printed tables, definitions, paths and reasons.
    formats: formats of the figures, a subset of "png", "pdf" and "svg".
    more: further parts, from `loss_part`, `telemetry_part` or `ablation_part`.
    left_out: reason for each further part that is missing, by name.

  Returns:
    Paths of the files written.

  Raises:
    OSError: if a file cannot be written.
  """
  parts, skipped = look(sites, title)
  parts = [*more, *parts]
  written = write_parts(parts, out, title, log, formats, {**(left_out or {}), **skipped})
  _print_tables(sites, {part.name: part.table for part in parts}, log)
  return written


def write_parts(
  parts: Sequence[Part],
  out: str | os.PathLike,
  title: str = "",
  log: Callable[[str], None] = print,
  formats: Sequence[str] = plots.FORMATS,
  skipped: Mapping[str, str] | None = None,
) -> list[str]:
  """Writes the files of all parts and their page into a folder, and returns the paths.

  Args:
    parts: parts, from `look` and the functions for further parts.
    out: folder; it is made if it does not exist.
    title: title of the page.
    log: function that receives the paths and the reasons.
    formats: formats of the figures, a subset of "png", "pdf" and "svg".
    skipped: reason for each missing part, by name.
  """
  Path(out).mkdir(parents=True, exist_ok=True)
  written = []
  for part in parts:
    written += write_part(part, out, log, formats)
    if part.name == "findings":
      written.append(str(Path(out) / FINDINGS))
      write_atomically(written[-1], _markdown(part.table, title))
      log(f"wrote {written[-1]}")
  written.append(str(Path(out) / PAGE))
  write_atomically(written[-1], page.render(parts, title, skipped or {}))
  log(f"wrote {written[-1]}: everything on one interactive page")
  for name, reason in (skipped or {}).items():
    log(f"no {name}: {reason}")
  return written


def write_part(
  part: Part,
  out: str | os.PathLike,
  log: Callable[[str], None] = print,
  formats: Sequence[str] = plots.FORMATS,
) -> list[str]:
  """Writes `out/name.csv`, and the part's figure in each format; returns the paths."""
  stem = Path(out) / part.name
  drawn = plots.save(part.draw(), stem, formats) if part.draw else []
  paths = [*drawn, f"{stem}.csv"]
  part.table.write_csv(paths[-1])
  kinds = [*formats, "csv"] if drawn else ["csv"]
  log(f"wrote {paths[0]}" + "".join(f", .{kind}" for kind in kinds[1:]))
  return paths


def _markdown(table: Table, title: str) -> str:
  """Returns the findings and their definitions as Markdown."""
  *numbers, _, _ = table.columns
  lines = [
    f"# Findings{f': {title}' if title else ''}",
    "",
    f"Patterns that {PAPER}, as numbers. Sites are numbered from 0.",
    "",
  ]
  lines += ["| " + " | ".join((*numbers, "sites")) + " |", "|" + "---|" * (len(numbers) + 1)]
  for *row, which, _ in table.rows:
    cells = [row[0], *(Table.number(value) or "-" for value in row[1:]), which or "-"]
    lines.append("| " + " | ".join(cells) + " |")
  lines += ["", *(f"* {row[0]}: {row[-1].replace('|', chr(92) + '|')}" for row in table.rows)]
  return "\n".join([*lines, ""])


def _print_tables(
  sites: Mapping[str, Site], tables: Mapping[str, Table], log: Callable[[str], None]
) -> None:
  """Prints the numbers of each site (means over tokens), the findings, and the definitions."""
  similar = [None, *(row[3] for row in tables["similarity"].rows)] if "similarity" in tables else []
  if "gains" in tables:
    _print_sites([plots.short(name) for name in sites], tables, similar, log)
  else:
    for name, value in zip(sites, similar, strict=False):
      log(f"{name}  similarity to the input before: {'-' if value is None else f'{value:.3f}'}")
  if "findings" in tables:
    print_findings(tables["findings"], log)


def print_findings(table: Table, log: Callable[[str], None] = print) -> None:
  """Prints the findings of all networks of a table side by side, and the definitions.

  Args:
    table: table of the part "findings", from `look` or `compare_parts`.
    log: function that receives each text.
  """
  *columns, _ = table.columns
  log(f"\nPatterns that {PAPER}, as numbers; sites are numbered from 0:")
  log(Table(columns, [row[:-1] for row in table.rows]).text())
  log("")
  for name, definition in findings.DEFINITIONS.items():
    log(_definition(name, definition))


def _print_sites(
  names: Sequence[str],
  tables: Mapping[str, Table],
  similar: Sequence[float | None],
  log: Callable[[str], None],
) -> None:
  gains, head = tables["gains"], len(measures.GAINS)
  columns = ["site", *(k.replace("composite", "comp") for k in measures.GAINS)]
  rows = [[s, *row[1 : 2 * head : 2]] for s, row in zip(names, gains.rows, strict=True)]
  log("\n" + Table([c.replace("identity_distance", "|mix-I|") for c in columns], rows).text())
  if "streams" in tables:
    columns = ["site", *measures.STREAMS, "similarity"]
    width = len(measures.STREAMS)
    rows = [
      [s, *row[1 : 1 + width], similar[k] if similar else None]
      for k, (s, row) in enumerate(zip(names, tables["streams"].rows, strict=True))
    ]
    log("\n" + Table(columns, rows).text())
  log("\nMeans over tokens (maxima in gains.csv). P is mix: column j goes into row i.")
  for name, definition in spectra.DEFINITIONS.items():
    log(_definition(name, definition))


def _definition(name: str, text: str) -> str:
  """Returns a definition next to its name, wrapped at 100 columns."""
  return textwrap.fill(
    text, 100, initial_indent=f"  {name:<20}", subsequent_indent=" " * 22, break_on_hyphens=False
  )
