"""The HTML page of a report: all figures in one interactive file that works offline.

The page is built only from the tables of the parts, so that its numbers equal those of the CSV
files. page_files/ has its HTML, CSS and JavaScript, which use no library.
"""

import html
import importlib.resources
import json
from collections.abc import Mapping, Sequence

from hc_jax.analysis.page_tables import rounded
from hc_jax.analysis.page_views import VIEWS, View
from hc_jax.analysis.parts import Part
from hc_jax.analysis.tables import Table

MAX_BYTES = 5_000_000
# (digits of a number, whether single tokens are shown): the first pair that fits into MAX_BYTES.
FITS = ((6, True), (4, True), (4, False), (3, False))


def render(parts: Sequence[Part], title: str, skipped: Mapping[str, str]) -> str:
  """Returns the page as HTML, with fewer digits if it would exceed `MAX_BYTES`.

  Args:
    parts: parts of a report; parts without a view in `VIEWS`, except the findings, are ignored.
    title: title of the page.
    skipped: reason for each figure that is missing, by name.
  """
  for digits, tokens in FITS:
    page = _render(parts, title, skipped, digits, tokens)
    if len(page.encode()) < MAX_BYTES:
      break
  return page


def views_of(parts: Sequence[Part], digits: int = 6, tokens: bool = True) -> list[View]:
  """Returns the views that the page's script draws, in order, with numbers rounded to `digits`.

  Args:
    parts: parts of a report.
    digits: significant digits to keep.
    tokens: whether to keep options that show a single token.
  """
  found = {part.name: part for part in parts}
  views = [VIEWS[name](found[name]) for name in VIEWS if name in found]
  if not tokens:
    for view in views:
      view["options"] = [o for o in view["options"] if ", token " not in o["name"]]
  return [rounded(view, digits) for view in views if view["options"]]


def _render(
  parts: Sequence[Part], title: str, skipped: Mapping[str, str], digits: int, tokens: bool
) -> str:
  views = views_of(parts, digits, tokens)
  findings = next((part.table for part in parts if part.name == "findings"), None)
  links = [("findings", "Findings")] * (findings is not None)
  links += [(view["id"], view["title"].split(":")[0]) for view in views]
  reasons = "".join(f"<li>{name}: {html.escape(why)}</li>\n" for name, why in skipped.items())
  left_out = f"<section><h2>Left out</h2>\n<ul>\n{reasons}</ul></section>" if reasons else ""
  page = _file("page.html")
  for name, text in {
    "@TITLE@": html.escape(title or "analysis"),
    "@CSS@": _file("page.css"),
    "@NAV@": " ".join(f'<a href="#{at}">{html.escape(text)}</a>' for at, text in links),
    "@FINDINGS@": _findings(findings) if findings is not None else "",
    "@SKIPPED@": left_out,
    "@JS@": _file("page.js"),
    # Last, because a title may contain "@CSS@" or the like; "<" is escaped, because "</script>" in
    # a title would end the script element.
    "@DATA@": json.dumps(views, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
  }.items():
    page = page.replace(name, text)
  return page


def _file(name: str) -> str:
  folder = importlib.resources.files("hc_jax.analysis") / "page_files"
  return (folder / name).read_text(encoding="utf-8")


def _findings(table: Table) -> str:
  head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in (*table.columns[:-1],))
  rows = []
  for name, own, *others, which, _ in table.rows:
    cells = "".join(f"<td>{Table.number(v) or '–'}</td>" for v in others)
    rows.append(
      f'<tr><th scope="row">{html.escape(name)}</th><td class="own">{Table.number(own) or "–"}</td>'
      f"{cells}<td>{html.escape(which) or '–'}</td></tr>"
    )
  definitions = "".join(
    f"<dt>{html.escape(row[0])}</dt><dd>{html.escape(row[-1])}</dd>\n" for row in table.rows
  )
  return (
    '<section id="findings"><h2>Findings</h2>\n<p class="note">Patterns that arXiv 2409.19606 '
    "found in its networks, as numbers. Sites are numbered from 0.</p>\n"
    f'<div class="scroll"><table>\n<tr>{head}</tr>\n{chr(10).join(rows)}\n</table></div>\n'
    f"<details><summary>Definitions</summary><dl>\n{definitions}</dl></details></section>"
  )
