"""Tests that commands, configs, install lines and keys in the README and pages exist."""

import functools
import pathlib
import re
import subprocess
import sys

import pytest

from hc_jax import config_files
from hc_jax.runs.workdir import MAY_CHANGE

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))
DOCUMENTS = (*PAGES, "scripts/whats_next.sh", "Makefile")


@functools.cache
def _text(name):
  return (ROOT / name).read_text()


def _code_blocks(language):
  return re.findall(rf"^```{language}\n(.*?)^```", _text("README.md"), flags=re.S | re.M)


def _commands(pattern):
  """Returns all matches of `pattern` in the documents, each with its document."""
  return sorted({(name, found) for name in DOCUMENTS for found in re.findall(pattern, _text(name))})


def test_the_readme_is_short():
  assert len(_text("README.md").splitlines()) <= 150
  assert len(_text("README.md").split()) <= 1200


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document):
  targets = set(re.findall(r"^([a-z-]+):", _text("Makefile"), flags=re.M))
  text = _text(document)
  if document.endswith(".md"):  # a line of prose may begin with the word
    text = "".join(re.findall(r"^```.*?^```|`make [^`]*`", text, flags=re.S | re.M))
  named = set(re.findall(r"(?:^|`|\$ )make (?:[A-Z_]+=\S+ )*([a-z-]+)", text, flags=re.M))
  assert named <= targets, f"{document} names {sorted(named - targets)}"


@pytest.mark.slow
def test_subcommands_exist():
  named = {command for _, command in _commands(r"(?:^|`|\$ |  |/)hc-jax ([a-z]+)")}
  result = subprocess.run(
    [sys.executable, "-c", "from hc_jax.cli import main; main()", "--help"],
    capture_output=True,
    text=True,
    check=False,
  )
  known = set(re.findall(r"[a-z]+", result.stdout))
  assert named <= known, f"not in hc-jax --help: {sorted(named - known)}"


def test_configs_exist():
  for document, path in _commands(r"(?<![\w/])configs/\w+\.py"):
    assert (ROOT / path).exists(), f"{document} names {path}"


def test_configs_named_in_a_command_come_with_hc_jax():
  pattern = r"hc-jax (?:train|params|plan|ablate|configs) ([a-z0-9_/]+)\b(?!\.py)"
  named = {(page, name) for page, name in _commands(pattern)}
  assert len(named) > 10
  assert {(page, name) for page, name in named if name not in config_files.names()} == set()


def test_relative_links_lead_somewhere():
  for document in ("README.md", "CONTRIBUTING.md"):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", _text(document))
    for link in [*links, *re.findall(r'(?:src|srcset)="([^"]+)"', _text(document))]:
      assert (ROOT / link).exists(), f"{document} links to {link}"


def test_every_page_can_be_reached_from_the_readme():
  linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", _text("README.md")))
  of_site = {f"docs/{name}.md" for name in ("index", "changelog", "contributing")}
  pages = {page for page in PAGES if page.startswith("docs/")} - of_site
  assert pages <= linked, f"give the README links to {sorted(pages - linked)}"


def test_keys_that_may_differ_on_resume_are_those_of_the_page():
  table = _text("docs/train.md").split("### What may differ")[1].split("\n#")[0]
  found = set()
  for group, keys in re.findall(r"^\| `(\w+)` \| (.*) \|$", table, flags=re.M):
    every = {key for key in MAY_CHANGE if key.startswith(f"{group}.")}
    found |= every if keys == "all" else {f"{group}.{key}" for key in re.findall(r"`(\w+)`", keys)}
  assert found == set(MAY_CHANGE)


def test_the_install_lines_are_those_that_ci_runs():
  """.ci/wheel takes its lines from the text of three pages; here is what it finds."""
  found = [_install_lines(page) for page in ("README.md", "docs/start.md", "docs/text.md")]
  assert found[0] == ["pip install .", "pip install '.[cuda]'", "pip install '.[tpu]'"]
  wheel = ["pip wheel --no-deps -w dist .", "pip install dist/hc_jax-*.whl"]
  assert found[1] == [*found[0], *wheel]
  assert found[2] == ["pip install '.[parquet]'", "pip install '.[tokenizers]'"]
  assert "README.md docs/start.md docs/text.md" in _text(".ci/wheel")


def _install_lines(page):
  return re.findall(r"^(pip [a-z]+ .*?) *(?:#.*)?$", _text(page), flags=re.M)


@pytest.mark.slow
def test_first_example_is_short_and_needs_nothing_but_an_installation(tmp_path):
  example = _code_blocks("python")[0]
  assert len(example.rstrip().splitlines()) <= 20
  subprocess.run([sys.executable, "-c", example], check=True, cwd=tmp_path, timeout=300)
