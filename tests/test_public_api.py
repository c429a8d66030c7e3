"""Tests that public functions are annotated, and that `import hc_jax` is lazy."""

import ast
import pathlib
import subprocess
import sys

import pytest

import hc_jax

PACKAGE = pathlib.Path(__file__).parent.parent / "hc_jax"
FILES = sorted(PACKAGE.rglob("*.py"))


def _public_functions(tree):
  """Yields (name, node) of module-level functions, and of methods of module-level classes."""
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
  """Returns a sentence for each missing annotation."""
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


def test_type_checkers_see_the_names_that_are_fetched():
  tree = ast.parse((PACKAGE / "__init__.py").read_text())
  block = next(node for node in tree.body if isinstance(node, ast.If))
  seen = {alias.asname: node.module for node in block.body for alias in node.names}
  homes = {name: f"hc_jax.{home}" for name, home in hc_jax._HOME.items()}
  modules = {name for name, home in seen.items() if home == "hc_jax"}
  assert {name: home for name, home in seen.items() if name not in modules} == homes
  assert {"models", "nnx", "train"} <= modules
  assert all(getattr(hc_jax, name) is sys.modules[f"hc_jax.{name}"] for name in modules)
  assert set(hc_jax.__all__) == {"models", *homes}
  assert [alias.name for node in block.body for alias in node.names] == list(seen)


def test_every_name_is_what_its_module_has():
  for name, home in hc_jax._HOME.items():
    assert getattr(hc_jax, name) is getattr(sys.modules[f"hc_jax.{home}"], name)
  assert {*hc_jax.__all__, "__version__"} <= set(dir(hc_jax))
  names = {}
  exec("from hc_jax import *", names)
  assert set(hc_jax.__all__) <= set(names)


def test_modules_are_attributes_and_other_names_are_not():
  assert hc_jax.nnx is sys.modules["hc_jax.nnx"]
  assert not hasattr(hc_jax, "nothing") and not hasattr(hc_jax, "_repr_html_")
  with pytest.raises(AttributeError, match="hc_jax' has no attribute 'HyperConection'") as caught:
    hc_jax.HyperConection  # noqa: B018
  assert (caught.value.name, caught.value.obj) == ("HyperConection", hc_jax)  # for Python's hint
  with pytest.raises(ImportError, match="cannot import name 'HyperConection'"):
    from hc_jax import HyperConection  # noqa: F401


def test_a_module_that_lacks_a_package_says_which(monkeypatch):
  monkeypatch.delitem(sys.modules, "hc_jax.residual_network", raising=False)
  monkeypatch.delitem(sys.modules, "hc_jax.functional", raising=False)
  monkeypatch.delattr(hc_jax, "residual_network", raising=False)
  monkeypatch.delattr(hc_jax, "functional", raising=False)
  monkeypatch.setitem(sys.modules, "flax.linen", None)
  with pytest.raises(ModuleNotFoundError, match=r"flax\.linen"):
    hc_jax.functional  # noqa: B018


def _imported(code):
  """Returns the top-level packages, except Python's own, that a program has imported."""
  code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
  root = str(PACKAGE.parent)
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
  assert done.returncode == 0, done.stderr
  return set(done.stdout.split("\n")[-2].split()) - sys.stdlib_module_names


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"], ["configs"]])
def test_help_imports_no_jax(argv):
  code = f"from hc_jax.cli import main\ntry: main({argv})\nexcept SystemExit: pass"
  assert _imported(f"exec({code!r})") & {"jax", "flax", "numpy"} == set()


@pytest.mark.slow
def test_the_library_imports_jax_flax_and_numpy_alone():
  """Packages that these three import are allowed too."""
  theirs = _imported("import jax, numpy, flax.linen, flax.traverse_util")
  assert _imported("from hc_jax import *") - theirs == {"hc_jax"}
