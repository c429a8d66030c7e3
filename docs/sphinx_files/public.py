"""Finds the public names of modules, and writes them into pages of the API reference.

A module's public names are its `__all__`; without one, names without underscore that it defines or
imports as themselves (`from x import y as y`).
"""

import ast
import importlib
import inspect
import pathlib
import re
from typing import TYPE_CHECKING, Any

from sphinx_files.equations import EQUATIONS

if TYPE_CHECKING:  # tests import this file without Sphinx
  from sphinx.application import Sphinx

ROOT = pathlib.Path(__file__).parents[2]
# Types as Python shows them, and what users call them.
_TYPES = {
  r"str \| type\[Any\] \| (numpy\.)?dtype \| (jax\._src\.typing\.)?SupportsDType": "DTypeLike",
  r"\bjax\.jaxlib\._jax\.Array\b": "jax.Array",
  r"\boptax\._src\.base\.": "optax.",
  r"\bcollections\.abc\.": "",
}
_PUBLIC = re.compile(r"^```\{public\} ([\w.]+)\n```$", re.M)


def _path(module: str) -> pathlib.Path:
  path = ROOT.joinpath(*module.split("."))
  return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _source(module: str) -> ast.Module:
  return ast.parse(_path(module).read_text(encoding="utf-8"))


def public_names(module: str) -> list[str]:
  """Returns the public names of a module of this repository, in the order of its file."""
  names = []
  for node in _source(module).body:
    if isinstance(node, ast.ImportFrom):
      names += [alias.name for alias in node.names if alias.name == alias.asname]
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
      names.append(node.name)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      targets = node.targets if isinstance(node, ast.Assign) else [node.target]
      names += [target.id for target in targets if isinstance(target, ast.Name)]
  if "__all__" in names:
    names = list(importlib.import_module(module).__all__)
  return list(dict.fromkeys(name for name in names if not name.startswith("_")))


def modules_on(text: str) -> list[str]:
  """Returns the modules whose names a page of the reference has."""
  return _PUBLIC.findall(text)


def _entry(module: str, name: str) -> str:
  value = getattr(importlib.import_module(module), name)
  if inspect.isclass(value) and value.__module__.startswith("hc_jax"):
    directive, options = "autoclass", ["   :members:"]
  elif inspect.isroutine(value):
    directive, options = "autofunction", []
  else:
    directive, options = "autodata", ["   :no-value:"]
  lines = [f".. {directive}:: {module}.{name}", *options]
  return f"### {name}\n\n```{{eval-rst}}\n" + "\n".join(lines) + "\n```\n"


def _has(module: str, name: str, value: Any) -> bool:
  """Returns whether a name of another module is public there and the same object."""
  found = importlib.import_module(module)
  return name in public_names(module) and getattr(found, name) is value


def entries(module: str) -> str:
  """Returns Markdown that documents each public name of a module, where it is best imported."""
  found = importlib.import_module(module)
  parents = ["hc_jax"]
  for part in module.split(".")[1:-1]:
    parents.append(f"{parents[-1]}.{part}")
  parents = [] if module == "hc_jax" else parents
  own, elsewhere = [], []
  for name in public_names(module):
    value = getattr(found, name)
    if inspect.ismodule(value):
      continue
    first = next((p for p in parents if _has(p, name, value)), None)
    if first:
      elsewhere.append(f"{{py:obj}}`{first}.{name}`")
    else:
      own.append(_entry(module, name))
  if elsewhere:
    own.insert(
      0, "Also here, and documented where it is best imported: " + ", ".join(elsewhere) + ".\n"
    )
  return "\n".join(own)


def _read(app: "Sphinx", docname: str, source: list[str]) -> None:
  if docname.startswith("api/"):
    source[0] = _PUBLIC.sub(lambda found: entries(found[1]), source[0])


def with_public_types(text: str) -> str:
  """Returns a type, or text with types, by the names under which users import them."""
  for found, name in _TYPES.items():
    text = re.sub(found, name, text)
  return text


def _signature(app: Any, kind: str, name: str, value: Any, options: Any, *signature: Any) -> Any:
  """Writes a signature with public types; of a Flax module, its own fields without types."""
  import dataclasses

  import flax.linen as nn

  if kind != "class" or not issubclass(value, nn.Module):
    return tuple(part and with_public_types(part) for part in signature)
  given = []
  for field in dataclasses.fields(value):
    if field.init and field.name not in ("parent", "name"):
      missing = field.default is dataclasses.MISSING
      default = getattr(field.default, "__name__", None) or repr(field.default)
      shown = "" if missing else f"={'...' if ' at 0x' in default else default}"
      given.append(field.name + shown)
  return f"({', '.join(given)})", None


def as_rst(lines: list[str]) -> list[str]:
  """Returns a docstring as reStructuredText: maths and code are marked, stars and bars are text.

  Indented blocks are equations if `EQUATIONS` has all their lines, and code otherwise.
  """
  out: list[str] = []
  text: list[str] = []  # consecutive lines outside blocks: code in backticks may span them
  rest = list(lines)
  while rest:
    starts = rest[0].startswith("    ") and not (out + text or [""])[-1].strip()
    if starts and rest[0].strip():
      size = next((i for i, line in enumerate(rest) if line[:4].strip()), len(rest))
      block, rest = rest[:size], rest[size:]
      while not block[-1].strip():
        block.pop()
      out += [*_escaped(text), *_marked(block), ""]
      text = []
    else:
      text.append(rest.pop(0))
  return out + _escaped(text)


def _marked(block: list[str]) -> list[str]:
  known = [EQUATIONS.get(" ".join(line.split())) for line in block if line.strip()]
  rows = [row for found in known for row in found or ()]
  if not all(known):
    return [".. code-block:: text", "", *block]
  return [".. math::", "", *(f"    {row} \\\\" for row in rows[:-1]), f"    {rows[-1]}"]


def _escaped(lines: list[str]) -> list[str]:
  if not lines:
    return []
  parts = re.split(r"(``[^`]*``|`[^`]*`)", "\n".join(lines))
  for place in range(0, len(parts), 2):
    parts[place] = re.sub(r"(?<!\\)(?!^ *\* )(?<!^)([*|])(?! )", r"\\\1", parts[place])
    parts[place] = re.sub(r"(\w)_(?!\w)", r"\1\\_", parts[place])
  for place in range(1, len(parts), 2):
    code = parts[place].strip("`")
    rows = EQUATIONS.get(" ".join(code.split()), ())
    span = f":math:`{rows[0]}`" if len(rows) == 1 else f"``{code}``"
    before, after = parts[place - 1][-1:], parts[place + 1][:1]
    opens = "\\ " if before.strip() and before not in "'\"([{<-/:" else ""
    closes = "\\ " if after.isalnum() or after in tuple("([{=+*~^") else ""
    parts[place] = opens + span + closes
  return "".join(parts).split("\n")


def _comment(module: str, name: str) -> list[str]:
  """Returns the comment over a constant, in the module that defines it."""
  for node in _source(module).body:
    if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
      return _comment(node.module or "", name)
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if any(isinstance(target, ast.Name) and target.id == name for target in targets):
      lines = _path(module).read_text(encoding="utf-8").splitlines()
      _, _, after = lines[node.end_lineno - 1].partition("  # ")
      before = lines[: node.lineno - 1]
      found = [after] if after else []
      while before and before[-1].startswith("#"):
        found.insert(0, before.pop().lstrip("# "))
      return found or ["A constant."]
  return ["A constant."]


def _docstring(app: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
  if kind == "data":  # of a constant, autodoc has the text of its type
    module, _, short = name.rpartition(".")
    lines[:] = _comment(module, short)
  lines[:] = as_rst(lines)


def _types(app: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
  lines[:] = [with_public_types(x) if x.startswith(":vartype") else x for x in lines]


def _skip(app: Any, kind: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
  if name in ("parent", "name", "setup", "scope") and not isinstance(value, property):
    return True  # what Flax gives every module
  return None


def setup(app: "Sphinx") -> dict[str, Any]:
  """Fills pages of the reference when they are read, and tidies what autodoc finds."""
  from sphinx.domains.python import PyObject

  app.connect("source-read", _read)
  app.connect("autodoc-process-signature", _signature)
  app.connect("autodoc-process-docstring", _docstring, priority=100)  # before napoleon
  app.connect("autodoc-process-docstring", _types, priority=900)  # after napoleon
  app.connect("autodoc-skip-member", _skip)
  for field in PyObject.doc_field_types:
    field.label = "Attributes" if field.name == "variable" else field.label
  return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
