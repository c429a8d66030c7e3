"""Tests of a user's variant in its own file, with config, trainer and tools."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import cli
from hc_jax.config import connection_defaults, load_config
from hc_jax.testing.conformance import suite as conformance
from hc_jax.user_modules import import_modules

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "tests" / "train" / "tiny.py"
CONFIG = str(ROOT / "configs" / "quickstart.py")
# The 15 lines of docs/drop-in.md.
IMPORTS = """import flax.linen as nn
import jax.numpy as jnp
import hc_jax as hc
"""
PAGE = (ROOT / "docs" / "drop-in.md").read_text()
VARIANT = IMPORTS + PAGE[PAGE.index("class Fade") : PAGE.index("```", PAGE.index("class Fade"))]


@pytest.fixture
def table():
  """Restores the table of variants and the imported modules after the test."""
  before, modules, path = dict(hc.CONNECTIONS), set(sys.modules), list(sys.path)
  yield
  hc.CONNECTIONS.clear()
  hc.CONNECTIONS.update(before)
  sys.path[:] = path
  for name in set(sys.modules) - modules:
    del sys.modules[name]


def variant(**fields):
  def coefs(self, streams, index):
    n = self.num_streams
    return hc.Coefs(read=jnp.ones((1, n)) / n, write=jnp.ones((n, 1)), mix=None)

  annotations = {name: type(value) for name, value in fields.items()}
  return type("Mine", (hc.Connection,), {"coefs": coefs, "__annotations__": annotations, **fields})


def test_register_is_seen_by_configs_models_and_counts(table):
  hc.register("mine", variant(strength=0.5))
  group = connection_defaults()
  assert group.get_type("strength") is float and group.strength is None
  overrides = ["name=mine", "strength=0.25", "num_streams=3"]
  config = load_config(CONFIG, [f"--config.model.connection.{o}" for o in overrides])
  made = hc.make_connection("mine", {"strength": config.model.connection.strength})()
  assert made.strength == 0.25
  assert not hc.params.is_connection("a/Other_0/bias") and hc.params.is_connection("a/Mine_0/bias")
  model = hc.models.make_model(config.model, 11)
  assert jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 4), np.int32))
  hc.register("mine", variant(strength=1.0))  # like a notebook cell that runs again


@pytest.mark.parametrize(
  "name, cls, error, words",
  [
    ("hc", variant(), ValueError, "'hc' is taken by hc_jax.connections.hyper.HyperConnection"),
    ("mine", dict, TypeError, "subclass of hc_jax.Connection"),
    ("mine", variant()(), TypeError, "subclass of hc_jax.Connection"),
    ("mine", type("Mine", (hc.Connection,), {}), TypeError, "must define coefs"),
    ("mine", variant(norm=1.0), ValueError, "'norm' is float, but 'hc' has it as str"),
  ],
)
def test_what_register_refuses(table, name, cls, error, words):
  with pytest.raises(error, match=words):
    hc.register(name, cls)
  assert "mine" not in hc.CONNECTIONS


@pytest.mark.parametrize(
  "text, name, words",
  [
    (None, "no_such_module", "no module 'no_such_module' .*my_package.my_file"),
    ("import hc_jax\n1 / 0", "broken", r"broken.py:2: ZeroDivisionError"),
    ("import a_missing_package", "needs", r"needs.py:1: ModuleNotFoundError.*a_missing_package"),
    ("import hc_jax as hc\nhc.register('hc', hc.Residual)", "taken", "ValueError.*taken by"),
  ],
)
def test_a_module_that_cannot_be_imported(table, tmp_path, monkeypatch, capsys, text, name, words):
  monkeypatch.chdir(tmp_path)
  if text:
    (tmp_path / f"{name}.py").write_text(text)
  with pytest.raises(hc.UserError, match=words):
    import_modules([name])
  assert cli.main(["params", CONFIG, f"--import={name}"]) == 2
  assert f"--import={name}" in capsys.readouterr().err


def test_an_unknown_variant_is_named_before_its_unknown_fields():
  overrides = ["fade_init=0.1", "name=fade"]
  with pytest.raises(hc.UserError, match=r"'fade' is unknown.*--import=my_package.my_file"):
    load_config(CONFIG, [f"--config.model.connection.{o}" for o in overrides])


def run(folder, program, *arguments):
  env = os.environ | {
    "PYTHONPATH": str(ROOT),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": "",
  }
  return subprocess.run(
    [sys.executable, *program, *arguments], cwd=folder, env=env, capture_output=True, text=True
  )


# Runs commands in one process on the tiny text, and prints their exit codes.
COMMANDS = """
import json, sys
sys.path.insert(0, {folder!r})
import tiny
sys.path.remove({folder!r})
from hc_jax import cli
with tiny.tiny_text():
  codes = [cli.main(argv) for argv in json.loads(sys.argv[1])]
print("codes", codes)
"""


@pytest.mark.slow
def test_fifteen_lines_train_and_every_tool_takes_them(tmp_path):
  assert len([line for line in VARIANT.splitlines() if line.strip()]) <= 15
  (tmp_path / "my_package").mkdir()
  (tmp_path / "my_package" / "fade.py").write_text(VARIANT)
  name = "--config.model.connection.name=fade"
  flags = [name, "--config.model.connection.fade_init=0.1", "--config.train.num_steps=2"]
  missing = run(tmp_path, [str(TINY)], "out", *flags)
  assert missing.returncode == 2 and "Traceback" not in missing.stderr
  assert "'fade' is unknown" in missing.stderr and "--import=" in missing.stderr
  trained = run(tmp_path, [str(TINY)], "out", "--import=my_package.fade", *flags)
  assert trained.returncode == 0, trained.stderr
  saved = (tmp_path / "out" / "config.json").read_text()
  assert json.loads(saved)["config"]["model"]["connection"]["fade_init"] == 0.1
  assert "my_package" not in saved

  program = ["-c", textwrap.dedent(COMMANDS.format(folder=str(TINY.parent)))]
  tools = [
    ["sample", "out", "--tokens=2"],
    ["analyze", "out", "--formats=png"],
    ["params", CONFIG, name],
  ]
  done = run(tmp_path, program, json.dumps(tools))
  assert "codes [2, 2, 2]" in done.stdout, done.stdout + done.stderr
  assert done.stderr.count("'fade' is unknown") == 3 and done.stderr.count("--import=") == 3
  done = run(tmp_path, program, json.dumps([[*t, "--import=my_package.fade"] for t in tools]))
  assert "codes [0, 0, 0]" in done.stdout, done.stdout + done.stderr
  assert "static_fade" in done.stdout and "connections.png" in done.stdout
  count = next(line for line in done.stdout.splitlines() if line.startswith("hyper-connection"))
  assert count.split()[1] == "32"  # one number for each stream of two sites in four layers


@pytest.mark.exhaustive  # examples/own_variant.py does it for another variant
def test_it_goes_through_the_conformance_suite(table):
  names = {}
  exec(VARIANT, names)
  conformance.check_connection(hc.CONNECTIONS["fade"], log=lambda line: None)
  names["Fade"].facts = lambda self, d_model: hc.connections.Facts(num_params=7, note="")
  with pytest.raises(AssertionError, match="it has 4 parameters; its declaration or facts say 7"):
    conformance.check_connection(names["Fade"], log=lambda line: None)
