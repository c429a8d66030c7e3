"""Tests that every variant has a config, and correct rows in docs/family.md and the README."""

import ast
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

import hc_jax as hc
from hc_jax.config import load_config
from hc_jax.connections import CONNECTIONS, connection_factory

ROOT = pathlib.Path(__file__).parents[1]
VARIANTS = sorted((ROOT / "configs" / "variants").glob("*.py"))
# Variants of the package only, because a test may have registered another.
NAMES = [name for name, cls in CONNECTIONS.items() if cls.__module__.startswith("hc_jax.")]


def load(path, *overrides):
  return load_config(str(path), [f"--config.{override}" for override in overrides])


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_the_config_of_a_variant_is_a_short_delta_that_builds(path):
  assert len(path.read_text().splitlines()) <= 11
  model = hc.models.make_model(load(path).model, vocab_size=257)
  tokens = jnp.zeros((2, 8), jnp.int32)
  params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  claimed = CONNECTIONS[load(path).model.connection.name]
  connection = model.connection(parent=None)
  assert type(connection) is claimed
  of_block = [
    connection_factory(model.connection, sites_per_block=2, site_in_block=i)(parent=None)
    for i in range(2)
  ]
  found = sum(site.num_params(model.d_model) for site in of_block)
  ends = hc.param_count({k: v for k, v in params.items() if k.endswith("_streams")}).total
  assert hc.param_count(params).connection - ends == model.num_layers * found


def test_every_variant_has_a_config():
  names = {load(path).model.connection.name for path in VARIANTS}
  assert names == set(NAMES), "configs/variants/ and CONNECTIONS are out of step"


def cells_of(page, count):
  """Yields the name and the cells of each row of a page's table of classes, `count` cells wide."""
  for line in (ROOT / page).read_text().splitlines():
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    match = re.match(r"`(\w+)`", cells[0])
    if len(cells) == count and match and cells[1].startswith("`hc."):
      yield match[1], cells


def rows():
  """Returns name, fields, class, formula of the count and start of each row of docs/family.md."""
  found = []
  for name, cells in cells_of("docs/family.md", 6):
    given = re.findall(r"`(\w+)=(\w+)`", cells[0])
    fields = {name: ast.literal_eval(value) for name, value in given}
    found.append((name, fields, cells[1].strip("`"), cells[4].strip("`"), cells[5]))
  return found


def test_the_family_has_a_row_for_every_variant():
  assert {name for name, *_ in rows()} == set(NAMES), "give it a row in docs/family.md"


def test_the_table_of_the_readme_is_a_short_one_of_the_family():
  short = {(name, cells[1].strip("`"), cells[3]) for name, cells in cells_of("README.md", 4)}
  assert short == {(name, cls, start) for name, _, cls, _, start in rows()}


def evaluate(formula, n, m, d):
  """Evaluates a formula with products written side by side, such as `n(n+2)`."""
  text = formula.replace("log2(n)", "K").replace("n!", "F").replace("^", "**")
  text = re.sub(r"(?<=[\w)])(?=[A-Za-z(])", "*", text)
  return eval(text, {"n": n, "m": m, "d": d, "F": math.factorial(n), "K": math.log2(n)})


def test_formulas_are_read_as_written():
  assert evaluate("(nd+1)(n!+2n) + 3", 3, 1, 5) == 16 * 12 + 3
  assert evaluate("(d/m)(2m+n) + 2(mn+2log2(n))", 4, 2, 10) == 5 * 8 + 2 * 12


@pytest.mark.parametrize("row", rows(), ids=lambda row: "-".join([row[0], *map(str, row[1])]))
def test_a_row_of_the_family_is_what_the_variant_says(row):
  name, fields, cls, formula, start = row
  assert cls == f"hc.{CONNECTIONS[name].__name__}" and getattr(hc, cls[3:]) is CONNECTIONS[name]
  sizes = [{}, {"num_streams": 2}] if name in ("hc", "altup", "mhc", "mhc_lite", "kromhc") else [{}]
  for size in sizes:
    connection = connection_factory(CONNECTIONS[name], num_sites=6)(**fields, **size, parent=None)
    for d in (64, 192):
      expected = evaluate(formula, connection.num_streams, connection.fractions, d)
      assert connection.num_params(d) == expected, (size, d)
  distance = CONNECTIONS[name](**fields, parent=None).facts(64).residual_at_init
  assert start == ("no" if distance is None else "yes" if distance <= 1e-5 else "nearly")
