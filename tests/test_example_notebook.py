"""The notebook in examples/, as it is stored. `.ci/notebook` executes it."""

import ast
import json
import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILE = ROOT / "examples" / "hc_jax.ipynb"
HOME = "https://github.com/hc-jax/hc_jax"
BADGE = (
  "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
  "(https://colab.research.google.com/github/hc-jax/hc_jax/blob/main/examples/hc_jax.ipynb)"
)


@pytest.fixture(scope="module")
def notebook():
  return json.loads(FILE.read_text(encoding="utf-8"))


def _sources(notebook, kind):
  cells = [cell for cell in notebook["cells"] if cell["cell_type"] == kind]
  return ["".join(cell["source"]) for cell in cells]


def test_it_is_stored_without_outputs_and_as_a_notebook_is(notebook):
  assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
  assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
  for cell in notebook["cells"]:
    required = {"cell_type", "id", "metadata", "source"}
    if cell["cell_type"] == "code":
      required |= {"execution_count", "outputs"}
      assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]
    assert set(cell) == required and cell["metadata"] == {}, cell["id"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
  names = [cell["id"] for cell in notebook["cells"]]
  assert len(names) == len(set(names))


def test_it_is_stored_in_one_way_so_that_changes_are_seen(notebook):
  assert (
    FILE.read_text(encoding="utf-8") == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
  )
  assert FILE.stat().st_size < 30_000


def test_its_code_is_python_in_narrow_lines(notebook):
  for source in _sources(notebook, "code"):
    ast.parse(source)
    assert max(map(len, source.splitlines())) <= 100


def test_the_badge_opens_it(notebook):
  assert BADGE in _sources(notebook, "markdown")[0]
  assert BADGE in (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_links_into_the_repository_lead_somewhere(notebook):
  text = "\n".join(_sources(notebook, "markdown"))
  links = re.findall(re.escape(HOME) + r"/blob/main/([^)#\s]+)", text)
  assert len(links) > 3
  for link in links:
    assert (ROOT / link).exists(), link


def test_what_executes_it_is_declared():
  extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
  script = (ROOT / ".ci" / "notebook").read_text()
  for requirement in extras["notebook-test"]:
    assert re.search(rf"^packages=.*\b{requirement.partition('>')[0]}\b", script, re.M)
