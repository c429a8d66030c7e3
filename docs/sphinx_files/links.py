"""Pages as the repository has them, the notebook too; their links also lead somewhere here."""

import os
import pathlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # tests import this file without Sphinx
  from sphinx.application import Sphinx

ROOT = pathlib.Path(__file__).parents[2]
FILES = "https://github.com/hc-jax/hc_jax/blob/main/"

# Files at the root of the repository that are pages of the site.
ROOT_PAGES = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}

# A file outside docs/ that is copied there when the site is built.
NOTEBOOK, COPY = "examples/hc_jax.ipynb", "notebook.ipynb"

_LINK = re.compile(r"(?<=\]\()(?!https?://|mailto:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")


def with_links(text: str, docname: str, root: pathlib.Path = ROOT) -> str:
  """Returns a page's text: links to pages stay, links to other files lead to the repository.

  Args:
    text: Markdown, with links relative to its file.
    docname: name of the page, "idea" or "ablation/report".
    root: folder of the repository.
  """
  page = root / ROOT_PAGES[docname] if docname in ROOT_PAGES else root / "docs" / f"{docname}.md"
  folder = root / "docs" / pathlib.PurePosixPath(docname).parent
  sites = {root / name: root / "docs" / f"{page}.md" for page, name in ROOT_PAGES.items()}
  sites[root / NOTEBOOK] = root / "docs" / COPY

  def moved(found: re.Match[str]) -> str:
    target = pathlib.Path(page.parent, found[1]).resolve()
    target = sites.get(target, target)
    heading = found[2] or ""
    if target.is_relative_to(root / "docs"):
      return pathlib.Path(os.path.relpath(target, folder)).as_posix() + heading
    return FILES + target.relative_to(root).as_posix() + heading

  return _LINK.sub(moved, text)


def _copy(app: "Sphinx") -> None:
  text, copy = (ROOT / NOTEBOOK).read_bytes(), pathlib.Path(app.srcdir, COPY)
  if not copy.exists() or copy.read_bytes() != text:  # a new copy is built anew
    copy.write_bytes(text)


def _read(app: "Sphinx", docname: str, source: list[str]) -> None:
  if docname in ROOT_PAGES:
    source[0] = (ROOT / ROOT_PAGES[docname]).read_text(encoding="utf-8")
  if app.env.doc2path(docname).suffix == ".md":
    source[0] = with_links(source[0], docname)


def setup(app: "Sphinx") -> dict[str, Any]:
  """Copies the notebook to the pages, and changes each page when it is read."""
  app.connect("builder-inited", _copy)
  app.connect("source-read", _read)
  return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
