"""Tests that every Python block of the README and of docs/ runs, page by page."""

import pathlib
import re

import pytest

import hc_jax as hc

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page):
  """Returns the Python blocks of a page, with empty lines so that line numbers match the page."""
  text = page.read_text()
  for found in re.finditer(r"^```python\n(.*?)^```", text, flags=re.S | re.M):
    yield "\n" * text[: found.start(1)].count("\n") + found[1]


@pytest.fixture
def table():
  """Restores the table of variants after a test."""
  before = dict(hc.CONNECTIONS)
  yield
  hc.CONNECTIONS.clear()
  hc.CONNECTIONS.update(before)


def run(page):
  """Runs the code of a page, and returns its names."""
  names = {"__name__": page.stem}
  for block in blocks(page):
    exec(compile(block, str(page), "exec"), names)
  return names


@pytest.mark.slow  # a page compiles operation by operation, as its reader's interpreter would
@pytest.mark.parametrize(
  "page", [page for page in PAGES if list(blocks(page))], ids=lambda page: page.name
)
def test_the_code_of_a_page_runs(page, table, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HC_JAX_DATA", str(tmp_path / "data"))
  run(page)


def test_the_code_is_found():
  assert {"README.md", "drop-in.md", "nnx.md", "coming-from-pytorch.md"} <= {
    page.name for page in PAGES if list(blocks(page))
  }


def test_links_lead_somewhere():
  for page in PAGES:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
      assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_links_to_a_heading_find_it():
  for page in PAGES:
    for file, heading in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", page.read_text()):
      titles = re.findall(r"^#+ (.*)", (page.parent / file if file else page).read_text(), re.M)
      anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
      assert heading in anchors, f"{page.name} links to {file}#{heading}"


def test_rows_of_a_table_have_as_many_cells_as_its_head():
  """A bare | ends a cell, even within code, and then the rest of the row is not shown."""
  for page in PAGES:
    head = None
    for line in re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M).splitlines():
      if not line.startswith("|"):
        head = None
        continue
      bars = len(re.findall(r"(?<!\\)\|", line))
      head = head or bars
      assert bars == head, f"{page.name}: {line}"
