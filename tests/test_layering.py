"""Tests that imports point down. They read the source and import nothing.

The table is the design. A failure means that a module imports upwards or sideways: move the code,
or change the table on purpose and give the reason.
"""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "hc_jax"

_ARRAYS = {"jax", "flax"}
_L0 = {"axes", "coefs", "errors", "ops"}
_L1 = _L0 | {"connections", "fields", "nearest", "paper_names", "param_table", "params"}
_L2 = _L1 | {"config", "data", "models", "sharding"}
_PROGRAM = {"environment", "notebook", "output", "processes"}
_FILES = {"durable", "exclusive", "folders"}
_TOP = _L2 | _PROGRAM | {"analysis", "plan", "runs", "sample", "step", "train"}

# unit: (modules of hc_jax that it may import, other packages that it may import)
TABLE = {
  "errors": (set(), set()),
  "nearest": (set(), set()),
  "paper_names": ({"nearest"}, set()),
  "tables": (set(), set()),
  "param_table": ({"params", "tables"}, set()),
  "fields": ({"errors", "nearest"}, set()),
  "user_modules": ({"errors", "nearest"}, set()),
  "folders": ({"errors"}, set()),
  "durable": ({"folders"}, set()),
  "exclusive": ({"folders"}, set()),
  "terminal": (set(), set()),
  "environment": ({"errors"}, {"jax"}),
  "output": ({"terminal"}, set()),
  "notebook": ({"errors"}, set()),
  "precision": (set(), {"jax"}),
  "convert": (set(), {"numpy"}),
  "axes": (set(), _ARRAYS),
  "coefs": (set(), _ARRAYS),
  "copy": (set(), _ARRAYS),
  "ops": (_L0, _ARRAYS),
  "connections": (_L0 | {"fields", "paper_names"}, _ARRAYS | {"numpy"}),
  "nnx": ({"coefs", "connections", "ops"}, _ARRAYS),
  "functional": (set(), {"flax"}),
  "residual_network": ({"functional", "ops"}, {"flax"}),
  "params": (_L0 | {"connections"}, _ARRAYS | {"numpy"}),
  "models": (_L1, _ARRAYS | {"numpy"}),
  "sharding": ({"axes", "errors", "fields"}, _ARRAYS | {"numpy"}),
  "config": (_L1 | {"config_files", "config_keys", "step"}, {"ml_collections"}),
  "configs": (set(), set()),
  "config_files": ({"configs", "errors", "nearest", "paper_names"}, set()),
  "config_keys": (
    {"connections", "data", "fields", "models", "sharding", "step", "train.settings"},
    {"ml_collections", "numpy"},
  ),
  "data": (
    {"durable", "errors", "exclusive", "fields", "folders", "nearest"},
    {"etils", "grain", "numpy", "pyarrow", "sentencepiece", "tensorflow_datasets", "tokenizers"},
  ),
  "analysis": (_L1 | {"durable", "folders", "functional"}, _ARRAYS | {"matplotlib", "numpy"}),
  "testing": (_L1 | {"functional", "models", "sharding"}, _ARRAYS | {"numpy"}),
  "processes": ({"errors", "fields", "output", "sharding"}, {"jax", "numpy"}),
  "step": (
    {"axes", "errors", "fields", "nearest", "params", "sharding"},
    _ARRAYS | {"numpy", "optax"},
  ),
  "runs": (
    {"config", "data", "errors", "nearest", "param_table", "params", "processes"}
    | _FILES
    | {"step", "user_modules"},
    {"absl", "etils", "fsspec", "jax", "ml_collections", "numpy", "orbax", "tensorboardX", "wandb"},
  ),
  "sample": ({"errors", "fields"}, _ARRAYS | {"numpy"}),
  "plan": (_L2 | {"config_keys", "runs", "step"}, _ARRAYS),
  "train.settings": ({"fields"}, set()),
  "train": (
    _L2 | _PROGRAM | {"config_keys", "fields", "folders", "plan", "runs", "sample", "step"},
    _ARRAYS | {"numpy", "optax"},
  ),
  "cli": (
    _TOP
    | {
      "__version__",
      "ablate",
      "config_files",
      "config_keys",
      "folders",
      "terminal",
      "testing",
      "user_modules",
    },
    _ARRAYS | {"absl", "ml_collections", "numpy"},
  ),
  "ablate": (
    _TOP | {"config_files", "config_keys"} | _FILES,
    _ARRAYS | {"ml_collections", "numpy", "optax", "scipy"},
  ),
  "__main__": ({"cli"}, set()),
  # Packages that are loaded on first use; `import hc_jax` alone does not import them.
  "__init__": (
    _L1 | {"analysis", "config", "models", "nnx", "residual_network", "testing", "train"},
    set(),
  ),
}

# Heavy or foreign packages, with the places that may import each (None: no place).
ONLY_IN = {
  "chex": None,
  "fsspec": "hc_jax.runs",
  "matplotlib": "hc_jax.analysis.plots",
  "optax": ("hc_jax.step", "hc_jax.train", "hc_jax.ablate.tasks"),
  "scipy": "hc_jax.ablate.reporting.statistics",
  "orbax": "hc_jax.runs",
  "tensorboardX": "hc_jax.runs",
  "tensorflow": None,
  "tensorflow_datasets": "hc_jax.data",
  "torch": None,
  "wandb": "hc_jax.runs",
}

# None, because importing pyplot chooses the backend of the whole program, such as a notebook.
NEVER = ("matplotlib.pyplot", "pylab")

FILES = sorted(PACKAGE.rglob("*.py"))


def _module(path: pathlib.Path) -> str:
  parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def _imports(source: str, module: str):
  """Returns the absolute names that `module` imports; `from hc_jax import ops` is hc_jax.ops."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{module}: a relative import; write it from hc_jax on"
      if node.module in ("hc_jax", "matplotlib"):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
      else:
        yield node.module


# Modules that any unit may import: they use no arrays and no files, and import nothing above.
ANYWHERE = {"errors", "nearest", "tables"}


def _unit(module: str) -> str:
  """Returns the unit of a module: a package or a file, or a file of a package with its own row."""
  parts = module.split(".")[1:]
  return ".".join(parts[:2]) if ".".join(parts[:2]) in TABLE else parts[0]


def _violations(source: str, module: str):
  """Returns a sentence for each forbidden import in the `source` of `module`."""
  unit = _unit(module)
  internal, external = TABLE[unit]
  found = []
  for name in _imports(source, module):
    top, *rest = name.split(".")
    if name in NEVER:
      found.append(f"{module} imports {name}; draw on matplotlib.figure.Figure")
    if top == "hc_jax":
      target = _unit(name) if rest else "__init__"
      if not {target, target.partition(".")[0]} & {unit, *internal, *ANYWHERE}:
        found.append(f"{module} imports {name}; {unit} may import {sorted(internal)}")
    elif top not in sys.stdlib_module_names:
      place = ONLY_IN.get(top, "hc_jax")
      places = (place,) if isinstance(place, str) else place or ()
      if not f"{module}.".startswith(tuple(f"{one}." for one in places)):
        found.append(f"{module} imports {top}, which only {place or 'nobody'} may")
      elif top not in external:
        found.append(f"{module} imports {top}; {unit} may import {sorted(external)}")
  return found


def test_imports_point_down():
  found = []
  for path in FILES:
    module = _module(path)
    unit = _unit(module)
    if unit in TABLE:
      found += _violations(path.read_text(), module)
    else:
      found.append(f"{module}: hc_jax/{unit} is new: give it a row in TABLE")
  if found:
    pytest.fail("\n".join(found), pytrace=False)


UPWARD = [
  ("hc_jax.ops.streams", "from hc_jax.models import lm"),
  ("hc_jax.ops.streams", "import numpy as np"),
  ("hc_jax.connections.hyper", "from hc_jax import models"),
  ("hc_jax.connections.hyper", "import hc_jax"),
  ("hc_jax.models.lm", "import hc_jax.data.text"),
  ("hc_jax.models.lm", "from hc_jax.analysis import collect"),
  ("hc_jax.models.lm", "from hc_jax import sharding"),
  ("hc_jax.models.lm", "from hc_jax.copy import hyper_connection"),
  ("hc_jax.copy.hyper_connection", "from hc_jax import ops"),
  ("hc_jax.data.windows", "from hc_jax.train import loop"),
  ("hc_jax.data.windows", "import jax"),
  ("hc_jax.data.windows", "def f():\n  import tensorflow as tf"),
  ("hc_jax.analysis.spectra", "import matplotlib.pyplot as plt"),
  ("hc_jax.analysis.plots_of_mine", "import matplotlib.pyplot as plt"),
  ("hc_jax.analysis.plots.style", "import matplotlib.pyplot as plt"),
  ("hc_jax.analysis.plots.style", "def f():\n  from matplotlib import pyplot"),
  ("hc_jax.train.loop", "from hc_jax import cli"),
  ("hc_jax.train.loop", "from hc_jax.analysis.plots import loss_curve"),
  ("hc_jax.train.loop", "import tensorflow_datasets as tfds"),
  ("hc_jax.step.step", "import chex"),
  ("hc_jax.sample", "import orbax.checkpoint as ocp"),
  ("hc_jax.sample", "from hc_jax import train"),
]


def test_the_check_sees_an_arrow_that_points_up():
  unseen = [(module, line) for module, line in UPWARD if not _violations(line, module)]
  assert unseen == []


def test_a_new_file_is_looked_at():
  assert any(_module(path) == "hc_jax.connections.hyper" for path in FILES)
  assert any(_module(path) == "hc_jax.__init__" for path in FILES)


def test_importing_the_package_loads_nothing_heavy():
  heavy = ["grain", "matplotlib", "ml_collections", "orbax.checkpoint", "tensorboardX"]
  heavy += ["tensorflow", "tensorflow_datasets", "torch", "chex", "hc_jax.data", "hc_jax.train"]
  code = f"import hc_jax, json, sys; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
  )
  assert json.loads(result.stdout) == []


@pytest.mark.slow
def test_importing_data_and_train_loads_no_tensorflow():
  code = "from hc_jax.data import load_text\nfrom hc_jax.train import train_and_evaluate\n"
  code += "import tensorflow_datasets, sys\nsys.exit('tensorflow' in sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
