"""Every public function and method of hc_jax says the type of all it takes and returns."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "hc_jax"
FILES = sorted(PACKAGE.rglob("*.py"))


def _public_functions(tree):
  """(name, node) of module-level functions and of methods of module-level classes."""
  functions = (ast.FunctionDef, ast.AsyncFunctionDef)
  for node in tree.body:
    if isinstance(node, functions) and not node.name.startswith("_"):
      yield node.name, node
    elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
      for method in node.body:
        if isinstance(method, functions) and (
          not method.name.startswith("_") or method.name in ("__call__", "__init__")
        ):
          yield f"{node.name}.{method.name}", method


def _missing(tree):
  """What is unannotated, one sentence each."""
  found = []
  for name, node in _public_functions(tree):
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    for argument in named:
      if argument.annotation is None and argument.arg not in ("self", "cls"):
        found.append(f"{name}: {argument.arg}")
    if node.returns is None and node.name not in ("__init__", "setup"):
      found.append(f"{name}: what it returns")
  return found


def test_public_functions_are_fully_annotated():
  missing = {path.relative_to(PACKAGE): _missing(ast.parse(path.read_text())) for path in FILES}
  found = [f"{path}: {what}" for path, whats in missing.items() for what in whats]
  if found:
    pytest.fail("\n".join(found), pytrace=False)


def test_the_check_sees_a_missing_annotation():
  unseen = [
    source
    for source in (
      "def f(x) -> int: ...",
      "def f(x: int): ...",
      "def f(*, y) -> None: ...",
      "def f(*args) -> None: ...",
      "class A:\n  def __call__(self, x) -> int: ...",
    )
    if not _missing(ast.parse(source))
  ]
  assert unseen == []
