"""The documentation site, without Sphinx: its table of pages and the links of its pages."""

import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md"))

sys.path.append(str(DOCS))


def entries(page):
  """Returns the pages that the toctrees of a page name."""
  text = (DOCS / f"{page}.md").read_text()
  for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", text, flags=re.M | re.S):
    lines = [line for line in tree.splitlines() if line and not line.startswith(":")]
    yield from ((pathlib.PurePosixPath(page).parent / line).as_posix() for line in lines)


def test_every_page_has_one_place_on_the_site():
  listed = [entry for page in PAGES for entry in entries(page)]
  missing = sorted(set(PAGES) - set(listed) - {"index"})
  assert not missing, f"add a line to a toctree of docs/index.md: {missing}"
  twice = sorted({entry for entry in listed if listed.count(entry) > 1})
  assert not twice, f"listed more than once in the toctrees of docs/: {twice}"


def test_toctrees_name_pages_that_exist():
  for page in PAGES:
    gone = set(entries(page)) - set(PAGES)
    assert not gone, f"docs/{page}.md lists pages that do not exist: {sorted(gone)}"


@pytest.mark.parametrize(
  ("docname", "text", "on_the_site"),
  [
    ("idea", "[a](scale.md#b)", "[a](scale.md#b)"),
    ("idea", "[a](../hc_jax/coefs.py)", "[a](@hc_jax/coefs.py)"),
    ("idea", "[a](../CONTRIBUTING.md#b)", "[a](contributing.md#b)"),
    ("contributing", "[a](docs/scale.md)", "[a](scale.md)"),
    ("changelog", "[a](README.md) [b](#c)", "[a](@README.md) [b](#c)"),
    ("ablation/report", "![a](loss.png) [b](../idea.md)", "![a](loss.png) [b](../idea.md)"),
    ("idea", "[a](https://arxiv.org/abs/2409.19606)", "[a](https://arxiv.org/abs/2409.19606)"),
  ],
)
def test_links_lead_to_pages_or_to_the_repository(docname, text, on_the_site):
  from sphinx_files import links

  assert links.with_links(text, docname) == on_the_site.replace("@", links.FILES)


def test_links_to_other_hosts_are_https():
  """CI has no network: whether the other host answers is not asked."""
  for page in [ROOT / "README.md", *(DOCS / f"{page}.md" for page in PAGES)]:
    links = re.findall(r"\]\(([a-z]+:[^)]*)\)", page.read_text())
    wrong = [link for link in links if not re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", link)]
    assert not wrong, f"{page.name}: {wrong}"


# What users import, besides the names of hc_jax itself.
ROOMS = ["hc_jax"]
for _rooms in (
  "models nnx ops train analysis ablate data testing connections",
  "connections.contrib plan sharding convert config config_files errors params",
  "step.task step.state step.step step.loss step.optim step.groups",
):
  ROOMS += [f"hc_jax.{room}" for room in _rooms.split()]


def test_the_reference_has_every_public_module_once():
  from sphinx_files import public

  pages = (DOCS / "api").glob("*.md")
  listed = [module for page in pages for module in public.modules_on(page.read_text())]
  assert set(ROOMS) <= set(listed)
  assert len(listed) == len(set(listed))


def test_public_names_are_those_that_can_be_imported():
  from sphinx_files import public

  import hc_jax

  assert public.public_names("hc_jax") == list(hc_jax.__all__)
  assert "train" in public.public_names("hc_jax.train")
  assert "Connection" in public.public_names("hc_jax.nnx")
  assert "field" not in public.public_names("hc_jax.connections.base")  # imported for itself


def test_a_docstring_becomes_restructured_text():
  from sphinx_files import public

  rst = public.as_rst(
    ["Names of `a_` and `b`s; *c.", "", "* one `d", "  e`", "", "    f = 1", "", "g_"]
  )
  assert rst[:5] == ["Names of ``a_`` and ``b``\\ s; \\*c.", "", "* one ``d", "  e``", ""]
  assert rst[5:] == [".. code-block:: text", "", "    f = 1", "", "g\\_"]
