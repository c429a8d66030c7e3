"""Documents made of blocks, written as Markdown or as one HTML page that needs no other file."""

import base64
import dataclasses
import html
import os
import re
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light dark; --fg: #1a1a1a; --bg: #fff; --soft: #555; --line: #ddd;
  --panel: #f3f3f3; }
@media screen and (prefers-color-scheme: dark) {
  :root { --fg: #ececf1; --bg: #16161a; --soft: #a5a5b0; --line: #3a3a44; --panel: #26262d; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg);
  margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .93rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
th { border-bottom: 2px solid var(--soft); vertical-align: bottom; }
td { white-space: nowrap; } td.words { white-space: normal; min-width: 13rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
code { background: var(--panel); padding: .1em .3em; border-radius: 3px; font-size: .92em; }
figure { margin: 1.5rem 0; } figcaption { color: var(--soft); font-size: .93em; }
@media print {
  :root { color-scheme: light; }
  body { max-width: none; margin: 0; padding: 0; font-size: 10pt; }
  h1, h2 { break-after: avoid; } figure, tr, li { break-inside: avoid; }
  .scroll { overflow: visible; } table { font-size: 7.5pt; }
  th, td { padding: .25rem .35rem; } td.words { min-width: 0; }
  img { max-height: 11cm; }
}
"""


@dataclasses.dataclass(frozen=True)
class Heading:
  """A heading; level 1 is the title."""

  text: str
  level: int = 2


@dataclasses.dataclass(frozen=True)
class Paragraph:
  """A paragraph; `code` and **strong** are marked as in Markdown."""

  text: str


@dataclasses.dataclass(frozen=True)
class Items:
  """A bulleted list; marks as in `Paragraph`."""

  lines: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of texts.

  Attributes:
    head: heads of the columns.
    rows: rows with a cell for each column.
    left: indices of columns that hold words and are aligned left; numbers are aligned right.
  """

  head: Sequence[str]
  rows: Sequence[Sequence[str]]
  left: Sequence[int] = (0,)


@dataclasses.dataclass(frozen=True)
class Picture:
  """A PNG file in the report's folder, with its caption."""

  file: str
  caption: str


Block = Heading | Paragraph | Items | Table | Picture


def to_markdown(blocks: Sequence[Block]) -> str:
  """Returns the document as Markdown; pictures are links to their files."""
  return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
  match block:
    case Heading(text, level):
      return "#" * level + " " + text
    case Paragraph(text):
      return text
    case Items(lines):
      return "\n".join(f"* {line}" for line in lines)
    case Table(head, rows, left):
      rule = ["---" if i in left else "---:" for i in range(len(head))]
      return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])
    case Picture(file, caption):
      return f"![{caption}]({file})\n\n{caption}"


def to_html(blocks: Sequence[Block], folder: str) -> str:
  """Returns the document as one HTML page with the pictures embedded.

  Args:
    blocks: blocks of the document.
    folder: folder of the picture files.
  """
  title = next((b.text for b in blocks if isinstance(b, Heading) and b.level == 1), "")
  body = "\n".join(_html(block, folder) for block in blocks)
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
    "</body>\n</html>\n"
  )


def _html(block: Block, folder: str) -> str:
  match block:
    case Heading(text, level):
      return f"<h{level}>{_inline(text)}</h{level}>"
    case Paragraph(text):
      return f"<p>{_inline(text)}</p>"
    case Items(lines):
      return "<ul>\n" + "\n".join(f"<li>{_inline(line)}</li>" for line in lines) + "\n</ul>"
    case Table(head, rows, left):
      lines = [_html_row("th", head, left), *(_html_row("td", row, left) for row in rows)]
      return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"
    case Picture(file, caption):
      with open(os.path.join(folder, file), "rb") as picture:
        data = base64.b64encode(picture.read()).decode()
      return (
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_inline(caption)}</figcaption></figure>"
      )


def _html_row(tag: str, cells: Sequence[str], left: Sequence[int]) -> str:
  kinds = [
    ("" if i == 0 else ' class="words"') if i in left else ' class="number"'
    for i in range(len(cells))
  ]
  inside = (
    f"<{tag}{kind}>{_inline(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
  )
  return f"<tr>{''.join(inside)}</tr>"


def _inline(text: str) -> str:
  text = html.escape(text, quote=False)
  text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
  return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
