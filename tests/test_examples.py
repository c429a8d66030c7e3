"""Every file of examples/ runs alone, and prints what its page says."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "examples").glob("*.py"))
NAMES = [file.stem for file in FILES]
# What one `pip install hc_jax` brings.
PACKAGES = {"hc_jax", "jax", "flax", "optax"}


def run(name, folder, *arguments):
  """Runs an example as somebody does who fetched this one file; returns what it printed."""
  (folder / f"{name}.py").write_text((ROOT / "examples" / f"{name}.py").read_text())
  env = os.environ | {
    "PYTHONPATH": str(ROOT),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_NUMPY_RANK_PROMOTION": "allow",
    "XLA_FLAGS": "",
  }
  done = subprocess.run(
    [sys.executable, f"{name}.py", *arguments],
    cwd=folder,
    env=env,
    capture_output=True,
    text=True,
    timeout=590,
  )
  assert done.returncode == 0, done.stderr
  assert "Warning" not in done.stderr, done.stderr
  return done.stdout.splitlines()


def losses(lines):
  return [float(found[1]) for line in lines if (found := re.search(r"loss +([\d.]+)$", line))]


def number(text):
  return float(text.replace(",", "").rstrip("%"))


@pytest.mark.slow
def test_a_loop_of_ones_own(tmp_path):
  lines = run("own_loop", tmp_path, "--steps=60")
  assert lines[0] == "104,953 parameters, 1,640 of them of hyper-connections"
  first, *_, last = losses(lines)
  assert first > 2.5 and last < 1.5


@pytest.mark.slow
def test_dhc_against_shc(tmp_path):
  lines = run("dhc_vs_shc", tmp_path, "--steps=3", "--seed=1")
  rows = {line.split()[0]: line.split() for line in lines if line.strip()}
  table = {line.split()[0]: line.split() for line in lines[2:5]}
  connections = {arm: int(number(row[2])) for arm, row in table.items()}
  a_site = {arm: int(row[-1]) for arm, row in table.items()}
  assert connections == {arm: 4 * count for arm, count in a_site.items()}
  assert a_site == {"residual": 0, "SHC": 24, "DHC": 410}
  assert [number(table[arm][4]) for arm in table] == [0, 0, 4 * 64 * 6]
  for arm in table:
    assert number(table[arm][1]) == number(table["residual"][1]) + connections[arm]
    assert 1 < float(rows[arm][1]) < 5  # a loss
  assert "proves nothing" in " ".join(lines)


@pytest.mark.slow
def test_expansion_rates(tmp_path):
  small = ("--width=64", "--layers=2", "--length=32", "--vocab=100")
  lines = run("expansion_rates", tmp_path, *small)
  rows = {
    " ".join(line.split()[:-6]): [number(n) for n in line.split()[-6:]] for line in lines[2:7]
  }
  assert list(rows) == ["residual", "DHC n=1", "DHC n=2", "DHC n=4", "DHC n=8"]
  for n in (1, 2, 4, 8):
    assert rows[f"DHC n={n}"][1] == 4 * (64 * (n + 2) + n * (n + 2) + 2)
  for column in (0, 1, 3):
    grows = [row[column] for row in rows.values()]
    assert grows == sorted(grows) and len(set(grows)) == 5
  assert [row[4] for row in rows.values()] == sorted(row[4] for row in rows.values())


@pytest.mark.slow
def test_a_vision_transformer_of_ones_own(tmp_path):
  lines = run("vision_transformer", tmp_path, "--steps=40")
  first, *_, last = losses(lines)
  assert last < first
  found = re.fullmatch(r"accuracy on 512 new images: ([\d.]+)% \(guessing: 25%\)", lines[-1])
  assert float(found[1]) > 60


@pytest.mark.slow
def test_an_nnx_model(tmp_path):
  lines = run("nnx_model", tmp_path, "--steps=60")
  assert lines[0] == "9,432 parameters, 488 of them of hyper-connections"
  first, *_, last, residual = losses(lines)
  assert last < first / 2 and residual > 0
  assert lines[-1].startswith("as a residual network, 0 parameters of connections")


@pytest.mark.slow
def test_training_under_pmap(tmp_path):
  lines = run("pmap_training", tmp_path, "--steps=3")
  found = re.fullmatch(r"step   0  loss on one device ([\d.]+), on 4 devices ([\d.]+)", lines[0])
  assert float(found[1]) == pytest.approx(float(found[2]), abs=2e-5)
  assert float(lines[-1].rsplit(" ", 1)[1]) < 1e-5


@pytest.mark.slow
def test_a_variant_of_ones_own(tmp_path):
  lines = run("own_variant", tmp_path, "--steps=10")
  states = [line.split()[1] for line in lines if re.match(r"\w+ +(pass|skip|FAIL) ", line)]
  assert states.count("pass") >= 15 and "FAIL" not in states
  assert "16 of them of connections" in lines[-2]
  first, last = re.findall(r"\d\.\d+", lines[-1])
  assert float(last) < float(first)


def test_each_has_a_test():
  text = pathlib.Path(__file__).read_text()
  assert NAMES and all(f'run("{name}"' in text for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_how_to_run_it_needs_only_the_package_and_is_on_the_page(name):
  source = (ROOT / "examples" / f"{name}.py").read_text()
  tree = ast.parse(source)
  assert f"python {name}.py" in ast.get_docstring(tree)
  imported = {
    name.partition(".")[0]
    for node in ast.walk(tree)
    if isinstance(node, ast.Import | ast.ImportFrom)
    for name in (
      [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    )
  }
  assert imported - sys.stdlib_module_names <= PACKAGES
  page = (ROOT / "docs" / "examples.md").read_text()
  assert f"(../examples/{name}.py)" in page and f"python examples/{name}.py" in page


@pytest.mark.parametrize("name", ["own_loop", "vision_transformer"])
def test_it_is_short(name):
  lines = (ROOT / "examples" / f"{name}.py").read_text().splitlines()
  assert sum(bool(line.strip()) for line in lines) <= 68
