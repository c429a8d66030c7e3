"""Pages name code and tests as `file.py:name`, and quote messages: all of that exists."""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
NAME = re.compile(r"`([\w/]+\.py):([A-Za-z_][\w.]*)`")


def names_on(page):
  return NAME.findall(page.read_text())


@functools.cache
def defined(path):
  """Returns all names that a file defines at its top, and those of classes as "Class.name"."""
  found = set()

  def add(body, prefix):
    for node in body:
      if isinstance(node, ast.FunctionDef | ast.ClassDef):
        found.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
          add(node.body, prefix + node.name + ".")
      elif isinstance(node, ast.AnnAssign | ast.Assign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        found.update(prefix + target.id for target in targets if isinstance(target, ast.Name))

  add(ast.parse(path.read_text()).body, "")
  return found


def wrong_names(named):
  """Returns each `(file, name)` that is not there; files are below the root or below hc_jax/."""
  wrong = []
  for file, name in named:
    path = next((p for p in (ROOT / file, ROOT / "hc_jax" / file) if p.exists()), None)
    if path is None or name not in defined(path):
      wrong.append(f"{file}:{name}")
  return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_on_a_page_exists(page):
  assert not wrong_names(names_on(page))


def test_a_name_that_is_gone_is_found():
  there = ("coefs.py", "Coefs.as_matrix")
  gone = [("coefs.py", "Coefs.gone"), ("gone.py", "Coefs"), ("tests/test_docs.py", "gone")]
  assert wrong_names([there, *gone]) == [f"{file}:{name}" for file, name in gone]


def test_every_equation_of_the_paper_has_code_and_a_test():
  text = (ROOT / "docs/notation.md").read_text()
  parts = re.split(r"^\*\*(?=Eq\.|Algorithm)|^## ", text, flags=re.M)
  proved = set()
  for part in parts:
    head = re.match(r"(Eq\.|Algorithm) ([\d, toand]+)|(Figure 8)", part)
    if not head:
      continue
    files = [file for file, _ in NAME.findall(part)]
    assert any(f.startswith("tests/") for f in files), f"no test: {head[0]}"
    assert not all(f.startswith("tests/") for f in files), f"no code: {head[0]}"
    numbers = [int(n) for n in re.findall(r"\d+", head[2] or "8")]
    kind = head[1] or "Figure"
    proved.update((kind, n) for n in range(numbers[0], numbers[-1] + 1))
  wanted = {("Eq.", n) for n in range(1, 15)} | {("Algorithm", n) for n in (1, 2, 3)}
  assert proved == wanted | {("Figure", 8)}


@functools.cache
def messages():
  """Returns all lines of the source, with strings over several lines made one."""
  joined = re.compile(r"""["']\s*\n\s*f?["']""")
  return [
    line
    for path in sorted((ROOT / "hc_jax").rglob("*.py"))
    for line in joined.sub("", path.read_text()).splitlines()
    if '"' in line or "'" in line
  ]


def is_said(quoted):
  """Returns whether one message has all parts of the quoted one in order; `...` is any value."""
  parts = [part.strip() for part in quoted.split("...") if len(part.strip()) > 1]
  return bool(parts) and any(in_order(parts, message) for message in messages())


def in_order(parts, text):
  end = 0
  for part in parts:
    start = text.find(part, end)
    if start < 0:
      return False
    end = start + len(part)
  return True


def test_every_message_on_the_page_is_in_the_source():
  ours = (ROOT / "docs/trouble.md").read_text().split("JAX itself says these:")[0]
  quoted = re.findall(r"^\| `([^`]+)`", ours, flags=re.M)
  assert len(quoted) > 40
  assert not [message for message in quoted if not is_said(message)]


def test_a_message_that_nobody_says_is_found():
  assert is_said("config key ... takes ..., not ...")
  assert not is_said("config key ... eats ..., not ...")
  assert not is_said("...")
