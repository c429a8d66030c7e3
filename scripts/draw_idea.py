"""Draws the idea of hyper-connections, light and dark: docs/figures/idea-light.svg, idea-dark.svg.

python scripts/draw_idea.py
"""

import pathlib

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "docs" / "figures"
WIDTH, HEIGHT = 640, 420
STREAMS = (62, 104, 146, 188)  # y of each stream
READ, MIX, WRITE = 126, (250, 390), 516  # x of each operation
BRANCH = (218, 282, 204, 88)  # x, y, width, height
THEMES = {
  "light": {
    "paper": "#ffffff",
    "ink": "#1f2328",
    "soft": "#59636e",
    "box": "#f0f3f6",
    "streams": ("#0550ae", "#116329", "#953800", "#8250df"),
  },
  "dark": {
    "paper": "#0d1117",
    "ink": "#f0f6fc",
    "soft": "#b1bac4",
    "box": "#21262d",
    "streams": ("#79c0ff", "#7ee787", "#ffa657", "#d2a8ff"),
  },
}
WORDS = (
  "One site with four streams. Read: a weighted sum of the streams is the input of the branch. "
  "Mix: every stream becomes a weighted sum of all streams. "
  "Write: the branch output is added to every stream with a weight of its own."
)


def _line(points: str, colour: str, width: float = 3, more: str = "") -> str:
  return f'<path d="{points}" fill="none" stroke="{colour}" stroke-width="{width}" {more}/>'


def _text(x: float, y: float, text: str, colour: str, more: str = "") -> str:
  return f'<text x="{x}" y="{y}" fill="{colour}" {more}>{text}</text>'


def draw(theme: str) -> str:
  """Returns the SVG of a theme."""
  of = THEMES[theme]
  ink, soft, paper, box = of["ink"], of["soft"], of["paper"], of["box"]
  left, right = MIX
  x, y, width, height = BRANCH
  middle = y + height / 2
  parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="{paper}"/>']
  parts.append(
    f'<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    f'orient="auto"><path d="M0 0L10 5L0 10z" fill="{soft}"/></marker>'
  )
  for i, (at, colour) in enumerate(zip(STREAMS, of["streams"], strict=True)):
    parts.append(_line(f"M86 {at}H{left}M{right} {at}H622", colour, 4))
    parts.append(_text(18, at + 8, f"X{i}", colour, 'font-weight="600"'))
    for j, source in enumerate(STREAMS):
      weight, faint = (4, 1) if i == j else (1.5, 0.65)
      parts.append(
        _line(f"M{left} {source}L{right} {at}", of["streams"][j], weight, f'opacity="{faint}"')
      )
  arrow = 'marker-end="url(#tip)"'
  low, high = STREAMS[0], STREAMS[-1]
  parts.append(_line(f"M{READ} {low}V{middle}H{x - 3}", soft, 3, arrow))
  parts.append(_line(f"M{x + width} {middle}H{WRITE}V{low}", soft, 3))
  for at, colour in zip(STREAMS, of["streams"], strict=True):
    parts.append(f'<circle cx="{READ}" cy="{at}" r="7" fill="{colour}"/>')
    parts.append(
      f'<circle cx="{WRITE}" cy="{at}" r="12" fill="{paper}" stroke="{colour}" stroke-width="3"/>'
    )
    parts.append(_line(f"M{WRITE - 7} {at}h14M{WRITE} {at - 7}v14", ink, 2.5))
  parts.append(
    f'<rect x="{left - 12}" y="{low - 24}" width="{right - left + 24}" height="{high - low + 48}" '
    f'rx="10" fill="none" stroke="{soft}" stroke-width="2" stroke-dasharray="6 5"/>'
  )
  parts.append(
    f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="{box}" '
    f'stroke="{soft}" stroke-width="2"/>'
  )
  centre = 'text-anchor="middle"'
  bold = f'{centre} font-weight="600"'
  parts.append(_text(READ, 30, "read", ink, bold))
  parts.append(_text((left + right) / 2, 30, "mix", ink, bold))
  parts.append(_text(WRITE, 30, "write", ink, bold))
  parts.append(_text(x + width / 2, y + 37, "branch F", ink, bold))
  parts.append(_text(x + width / 2, y + 66, "attention or MLP", soft, f'{centre} font-size="21"'))
  parts.append(_text(READ + 14, middle - 12, "h [d]", soft))
  parts.append(_text(x + width + 14, middle - 12, "y [d]", soft))
  parts.append(_text((left + right) / 2, high + 56, "n streams [n, d]", soft, centre))
  equation = "X′ = mix · X + write · F(read · X)"
  parts.append(_text(WIDTH / 2, HEIGHT - 16, equation, ink, centre))
  body = "\n".join(parts)
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
    f'height="{HEIGHT}" role="img" font-family="system-ui, sans-serif" font-size="24">\n'
    f"<title>Hyper-connections</title>\n<desc>{WORDS}</desc>\n{body}\n</svg>\n"
  )


def main() -> None:
  """Writes both files."""
  for theme in THEMES:
    (FOLDER / f"idea-{theme}.svg").write_text(draw(theme), encoding="utf-8")


if __name__ == "__main__":
  main()
