"""The documentation site, without Sphinx: its table of pages and the links of its pages."""

import ast
import pathlib
import re
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md"))

COPIED = {"notebook"}  # links.py copies it when the site is built

sys.path.append(str(DOCS))


def entries(page):
  """Returns the pages that the toctrees of a page name."""
  text = (DOCS / f"{page}.md").read_text()
  for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", text, flags=re.M | re.S):
    lines = [line for line in tree.splitlines() if line and not line.startswith(":")]
    pages = (re.sub(r"^.*<(.*)>$", r"\1", line) for line in lines)
    yield from ((pathlib.PurePosixPath(page).parent / name).as_posix() for name in pages)


def test_every_page_has_one_place_on_the_site():
  listed = [entry for page in PAGES for entry in entries(page)]
  missing = sorted(set(PAGES) - set(listed) - {"index"})
  assert not missing, f"add a line to a toctree of docs/index.md: {missing}"
  twice = sorted({entry for entry in listed if listed.count(entry) > 1})
  assert not twice, f"listed more than once in the toctrees of docs/: {twice}"


def test_toctrees_name_pages_that_exist():
  for page in PAGES:
    gone = set(entries(page)) - set(PAGES) - COPIED
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
    ("notebooks", "[a](../examples/hc_jax.ipynb)", "[a](notebook.ipynb)"),
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


# Rooms at the top of hc_jax without a page of the reference. What users need of them has its page,
# or is documented where it is best imported (`hc_jax.Coefs`, `hc_jax.train.Stopped`).
INTERNAL = set()
for _rooms in (
  "__main__ axes cli coefs config_keys configs copy durable environment exclusive fields folders",
  "functional nearest output paper_names param_table processes residual_network runs sample step",
  "tables terminal user_modules",
):
  INTERNAL |= set(_rooms.split())


def documented():
  """Returns the modules whose names the pages of the reference have, page after page."""
  from sphinx_files import public

  pages = sorted((DOCS / "api").glob("*.md"))
  return [module for page in pages for module in public.modules_on(page.read_text())]


def test_the_reference_has_every_room_of_the_package_once():
  """A package's public names are those of its `__init__`; its other modules need no page."""
  listed = documented()
  twice = sorted({module for module in listed if listed.count(module) > 1})
  assert not twice, f"on the pages of docs/api/ more than once: {twice}"
  package = ROOT / "hc_jax"
  folders = {path.parent.name for path in package.glob("*/__init__.py")}
  rooms = {path.stem for path in package.glob("*.py")} - {"__init__"} | folders
  left_out = {room for room in rooms if f"hc_jax.{room}" not in listed}
  new = sorted(left_out - INTERNAL)
  assert not new, f"add to a page of docs/api/, or to INTERNAL: {new}"
  gone = sorted(INTERNAL - left_out)
  assert not gone, f"INTERNAL has rooms that have a page or do not exist: {gone}"


def test_what_pages_and_examples_import_is_in_the_reference():
  from sphinx_files import public

  public_names = {module: public.public_names(module) for module in documented()}
  files = [ROOT / "README.md", *DOCS.glob("*.md"), *(ROOT / "examples").glob("*.py")]
  missing = set()
  for file in files:
    for module, names in re.findall(
      r"^ *from (hc_jax[\w.]*) import ([\w, ]+)", file.read_text(), re.M
    ):
      outer = [m for m in public_names if module.startswith(f"{m}.")]
      known = {name for m in outer for name in public_names[m]}
      if module not in public_names and not set(names.split(", ")) <= known:
        missing.add(f"{file.name}: {module}")
  # A file to copy, and a config, which is a file of values.
  missing -= {"drop-in.md: hc_jax.copy", "ablations.md: hc_jax.configs"}
  assert not missing, f"add the modules to a page of docs/api/: {sorted(missing)}"


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


def docstrings():
  """Returns the docstrings that may have equations, each with its file."""
  package = ROOT / "hc_jax"
  folders = [
    package.glob("coefs.py"),
    package.glob("connections/**/*.py"),
    package.glob("ops/*.py"),
  ]
  for path in (path for folder in folders for path in folder):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        yield path.relative_to(ROOT), ast.get_docstring(node) or ""


def test_equations_of_docstrings_are_typeset():
  """An indented block that is not Python is an equation, and `EQUATIONS` has its LaTeX."""
  from sphinx_files import public

  texts, plain = set(), []
  for path, text in docstrings():
    texts.update(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
    texts.update(" ".join(line.split()) for line in text.splitlines())
    rst = "\n".join(public.as_rst(text.splitlines()))
    for block in re.findall(r"^\.\. code-block:: text\n\n((?:    .*\n|\n)+)", rst + "\n", re.M):
      try:
        ast.parse(textwrap.dedent(block))
      except SyntaxError:
        plain.append(f"{path}: {block.strip()}")
  assert not plain, f"add their LaTeX to docs/sphinx_files/equations.py: {plain}"
  gone = sorted(set(public.EQUATIONS) - texts)
  assert not gone, f"docs/sphinx_files/equations.py has equations of no docstring: {gone}"


def test_an_equation_becomes_maths():
  from sphinx_files import public

  rst = public.as_rst(["With `x' = x + F(x)`:", "", "    mix = identity", "", "    f(x)", "", "g"])
  assert rst[0] == "With :math:`x' = x + F(x)`:"
  assert rst[2:4] == [".. code-block:: text", ""]  # a block with one line that is code is code
  rst = public.as_rst(["    x = x + F(x)     at every site", "", "    mix = identity"])
  assert rst[:2] == [".. math::", ""]
  assert rst[2].endswith(r"\text{at every site} \\") and rst[3].endswith("&= I")


def test_types_have_the_names_that_users_import():
  from sphinx_files import public

  types = "collections.abc.Callable[[jax.jaxlib._jax.Array], optax._src.base.Params]"
  assert public.with_public_types(types) == "Callable[[jax.Array], optax.Params]"
