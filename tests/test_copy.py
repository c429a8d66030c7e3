"""Tests of hc_jax/copy/hyper_connection.py: generated, self-contained, bitwise equal."""

import ast
import importlib.util
import inspect
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.copy import hyper_connection as copied

ROOT = pathlib.Path(__file__).parent.parent
FILE = ROOT / "hc_jax" / "copy" / "hyper_connection.py"
DTYPES = ("float32", "bfloat16")
KINDS = [(n, dynamic) for n in (1, 2, 4) for dynamic in (True, False)]


@pytest.fixture
def script(monkeypatch):
  """Returns the module of the script that generates the file."""
  monkeypatch.setattr(sys, "path", list(sys.path))
  spec = importlib.util.spec_from_file_location(
    "copy_hyper_connection", ROOT / "scripts" / "copy_hyper_connection.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_file_is_what_the_script_generates(script):
  assert script.TARGET == FILE
  assert script.generate() == FILE.read_text(), f"the library has changed; run: {script.COMMAND}"
  assert f"`{script.COMMAND}`" in copied.__doc__


@pytest.mark.parametrize("old, places", [("nothing like it", 0), ("weights", 4)])
def test_an_edit_that_does_not_fit_stops_the_script(script, old, places):
  from hc_jax.ops.combine import lift

  assert inspect.getsource(lift).count(old) == places
  with pytest.raises(SystemExit, match=rf"ops\.combine\.lift: an edit fits {places} places"):
    script.take(lift, (old, ""))


def test_the_file_stands_alone():
  text = FILE.read_text()
  imports = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
  names = {alias.name for node in imports for alias in node.names}
  assert names == {"flax", "flax.linen", "jax", "jax.numpy"}
  assert all(isinstance(node, ast.Import) for node in imports)
  assert len(text.splitlines()) <= 200


def _same(a, b):
  """Returns whether two trees have the same structure, dtypes, shapes and bits."""
  a, b = jax.tree.map(np.asarray, (a, b))
  same = lambda x, y: (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())  # noqa: E731
  return jax.tree.structure(a) == jax.tree.structure(b) and all(
    map(same, jax.tree.leaves(a), jax.tree.leaves(b))
  )


def _input(dtype="float32"):
  return jax.random.normal(jax.random.key(0), (2, 3, 8)).astype(dtype)


@pytest.mark.parametrize("n, dynamic", KINDS)
def test_parameters_are_those_of_the_library(n, dynamic):
  streams = jax.ShapeDtypeStruct((2, 3, n, 8), jnp.bfloat16)
  fields = {"num_streams": n, "dynamic": dynamic, "dynamic_scale_init": 0.3}

  def init(library, key, index):
    zeros = jnp.zeros(streams.shape, streams.dtype)
    return library.HyperConnection(**fields).init(key, zeros, index)["params"]

  for index in (0, 5):
    ours, theirs = (
      jax.jit(init, static_argnums=0)(library, jax.random.key(7), index) for library in (copied, hc)
    )
    assert list(ours) == list(theirs)
    assert _same(ours, theirs)


def test_fields_have_the_defaults_of_the_library():
  ours, theirs = copied.HyperConnection(), hc.HyperConnection()
  for name in ("num_streams", "dynamic", "dynamic_scale_init"):
    assert getattr(ours, name) == getattr(theirs, name)
  generator = inspect.signature(hc.ops.Generator).parameters
  assert generator["norm"].default == "layernorm"
  assert ours.norm_eps == generator["eps"].default


def _network(library, n, dynamic, **options):
  """Returns a network of two sites and its ends, which uses all functions of the file."""

  def run(params, x):
    streams, seen = library.expand(x, n), []
    for index, own in enumerate(params):
      connection = library.HyperConnection(num_streams=n, dynamic=dynamic, **options)
      dtype = jnp.float32 if index else None
      h, coefs = connection.apply({"params": own}, streams, index, dtype=dtype)
      y = jnp.tanh(2 * h)
      streams = connection.apply({"params": own}, streams, y, coefs, method="write")
      seen.append((h, (coefs.read, coefs.write, coefs.mix), streams))
    return library.reduce(streams), seen

  return run


def _params(n, dynamic, sites=2):
  """Returns parameters of the sites, all different, and none at its initial value."""
  shapes = {"static_read": (1, n), "static_mix": (n, n), "static_write": (n, 1)}
  if dynamic:
    shapes |= {"dynamic_kernel": (8, n + 2), "dynamic_scale": (2,)}
  draw = np.random.default_rng(1)
  return [
    {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for _ in range(sites)
  ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_are_bitwise_those_of_the_library(dtype):
  params, x = _params(2, True, sites=1), _input(dtype)
  ours = jax.jit(_network(copied, 2, True))(params, x)
  theirs = jax.jit(_network(hc, 2, True, derivatives="autodiff"))(params, x)
  assert _same(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, dynamic", KINDS)
def test_gradients_are_bitwise_those_of_the_library(n, dynamic, dtype, optimised):
  """Compiles with optimisations, which decide the order in which gradients are summed."""
  params, x = _params(n, dynamic), _input(dtype)

  def results(library, **options):
    run = _network(library, n, dynamic, **options)

    def loss(params, x):
      out, seen = run(params, x)
      return jnp.sum(jnp.sin(out)), (out, seen)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)

  ours = results(copied)
  assert _same(ours, results(hc, derivatives="autodiff"))
  if dtype == "float32":  # because XLA may not round bfloat16 where hand-written derivatives do
    _, custom = results(hc)
    for one, other in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(custom), strict=True):
      assert jnp.linalg.norm(one - other) <= 1e-5 * jnp.linalg.norm(other)


def test_the_example_runs_and_starts_as_the_residual_network():
  (example,) = re.findall(r"\n\n((?:    .*\n)+)", copied.__doc__)
  assert len(example.splitlines()) == 6
  head = "class Net(nn.Module):\n  branches: tuple\n\n  @nn.compact\n  def __call__(self, x):\n"
  setting = "    branches = self.branches\n"
  names = dict(vars(copied))
  exec(head + setting + example + "    return x\n", names)
  branches = (jnp.tanh, jnp.sin)
  x = _input()
  out, _ = jax.jit(names["Net"](branches).init_with_output)(jax.random.key(0), x)
  h = x + jnp.tanh(x)
  np.testing.assert_allclose(out / 4, h + jnp.sin(h), rtol=1e-5, atol=1e-6)


REFUSED = {
  "whole numbers": lambda: copied.expand(jnp.zeros((2, 8), jnp.int32), 4),
  "other streams": lambda: copied.HyperConnection(2).init(jax.random.key(0), _input(), 0),
  "maps of other streams": lambda: copied.combine(jnp.ones((1, 2)), _input()),
  "another width": lambda: copied.write(_input(), jnp.ones((2, 4)), copied.Coefs(*_maps(3))),
}


def _maps(n):
  return jnp.ones((1, n)), jnp.ones((n, 1)), jnp.eye(n)


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_refused(mistake):
  with pytest.raises(
    ValueError, match=r"embed tokens|make them|one call's maps|shape of its input"
  ):
    REFUSED[mistake]()
