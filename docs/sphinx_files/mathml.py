"""Maths as MathML, written when the site is built: browsers show it without a script or a network.

MathJax, Sphinx's own choice, is fetched from another host when a page is read. docutils has a
converter from LaTeX, so no further package is needed.
"""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_LOG = logging.getLogger(__name__)


def to_mathml(latex: str, as_block: bool) -> str:
  """Converts one formula; rows of a block are parted by two backslashes, and aligned at `&`.

  Raises:
    MathError: if it has a command that docutils does not know.
  """
  formula = str(latex2mathml.tex2mathml(latex, as_block=as_block))
  return f'<div class="equation">{formula}</div>\n' if as_block else formula


def _visit(translator: Any, node: nodes.Node, as_block: bool) -> None:
  try:
    translator.body.append(to_mathml(node.astext(), as_block))
  except MathError as error:
    _LOG.warning("no MathML of %r: %s", node.astext(), error, location=node)
  raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
  """Makes MathML the way in which HTML pages have their maths."""
  app.add_html_math_renderer(
    "mathml",
    (lambda self, node: _visit(self, node, False), None),
    (lambda self, node: _visit(self, node, True), None),
  )
  return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
