"""The README tells the truth: its commands exist and its first example runs."""

import pathlib
import re
import subprocess
import sys

import pytest

from hc_jax import config_files

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "scripts/whats_next.sh", "Makefile")


def _text(name):
  return (ROOT / name).read_text()


def _code_blocks(language):
  return re.findall(rf"^```{language}\n(.*?)^```", _text("README.md"), flags=re.S | re.M)


def _commands(pattern):
  """All matches of `pattern` in the documents, with the document that holds each."""
  return sorted({(name, found) for name in DOCUMENTS for found in re.findall(pattern, _text(name))})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(document):
  targets = set(re.findall(r"^([a-z-]+):", _text("Makefile"), flags=re.M))
  named = set(
    re.findall(r"(?:^|`|\$ )make (?:[A-Z_]+=\S+ )*([a-z-]+)", _text(document), flags=re.M)
  )
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
  for document, path in _commands(r"configs/\w+\.py"):
    assert (ROOT / path).exists(), f"{document} names {path}"


def test_configs_named_in_a_command_come_with_hc_jax():
  pages = [*DOCUMENTS, *(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
  pattern = r"hc-jax (?:train|params|plan|ablate|configs) ([a-z0-9_/]+)\b(?!\.py)"
  named = {(page, name) for page in pages for name in re.findall(pattern, _text(page))}
  assert len(named) > 10
  assert {(page, name) for page, name in named if name not in config_files.names()} == set()


def test_relative_links_lead_somewhere():
  for document in ("README.md", "CONTRIBUTING.md"):
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", _text(document)):
      assert (ROOT / link).exists(), f"{document} links to {link}"


@pytest.mark.slow
def test_first_example_is_short_and_needs_nothing_but_an_installation(tmp_path):
  example = _code_blocks("python")[0]
  assert len(example.rstrip().splitlines()) <= 20
  subprocess.run([sys.executable, "-c", example], check=True, cwd=tmp_path, timeout=300)
