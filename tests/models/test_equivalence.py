"""Equivalences: hyper-connections at initialisation, and known arrangements as special cases.

The paper's special cases hold under jit and under pmap, on two devices.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal
from tests.models import tiny

EPS = 1e-12
WAYS = ("jit", "pmap")
# n, dynamic, scanned, remat. That scanning and remat change nothing is T19's and conformance's.
VARIANTS = [(1, False, False, "none"), (2, False, True, "none"), (4, True, True, "branches")]


def run_by(way, function, *arrays):
  """Runs `function` under jit, or under pmap on two devices with half of the rows each."""
  if way == "jit":
    return jit(function)(*arrays)
  if jax.device_count() < 2:
    pytest.skip("needs two devices; tests/conftest.py forces eight on CPU")
  halves = [a.reshape(2, a.shape[0] // 2, *a.shape[1:]) for a in arrays]
  out = jax.pmap(function, devices=jax.devices()[:2])(*halves)
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)


def hyper(n, dynamic):
  return functools.partial(hc.HyperConnection, num_streams=n, dynamic=dynamic)


def residual_params():
  return tiny.params(tiny.model(connection=tiny.RESIDUAL))


@functools.cache
def residual_hidden():
  model = tiny.model(connection=tiny.RESIDUAL)
  return jit(functools.partial(model.apply, method="hidden"))(
    {"params": residual_params()}, tiny.TOKENS
  )


@functools.cache
def residual_logits(final_norm_eps):
  model = tiny.model(connection=tiny.RESIDUAL, final_norm_eps=final_norm_eps)
  logits = jit(functools.partial(model.apply, method="logits"))
  return np.asarray(logits({"params": residual_params()}, residual_hidden()))


@functools.cache
def initial(connection, scan):
  """Parameters of a model at initialisation, with the residual model's branch weights."""
  params = tiny.at_init(tiny.model(connection=connection, scan=scan))
  branches = residual_params() if scan else hc.models.unstack_layers(residual_params())
  return tiny.same_branches(branches, params)


@pytest.mark.parametrize("n, dynamic, scan, remat", VARIANTS)
def test_starts_as_the_residual_network(n, dynamic, scan, remat):
  connection = hyper(n, dynamic)
  fields = {"connection": connection, "scan": scan, "remat": remat, "final_norm_eps": EPS}
  logits = tiny.forward(**fields)(initial(connection, scan), tiny.TOKENS)
  chex.assert_trees_all_close(logits, residual_logits(EPS), atol=1e-5, rtol=0)


def test_static_connections_start_as_pre_norm_under_pmap():
  connection = hyper(2, False)
  model = tiny.model(connection=connection, final_norm_eps=EPS)
  params = initial(connection, True)
  logits = run_by("pmap", lambda tokens: model.apply({"params": params}, tokens), tiny.TOKENS)
  chex.assert_trees_all_close(np.asarray(logits), residual_logits(EPS), atol=1e-5, rtol=0)


def test_the_configs_eps_shifts_it_by_the_eps_effect():
  """LN(n x; eps) = LN(x; eps / n^2): the sum of n equal streams sees a smaller eps."""
  n, eps = 4, 0.3
  connection = hyper(n, False)
  fields = {"connection": connection, "final_norm_eps": eps}
  logits = tiny.forward(**fields)(initial(connection, True), tiny.TOKENS)
  np.testing.assert_allclose(logits, residual_logits(eps / n**2), atol=1e-5, rtol=0)
  assert np.abs(logits - residual_logits(eps)).max() > 1e-3


def test_model_init_is_equation_14():
  """`init` gives the maps that `at_init` above writes by hand, round robin over sites."""
  model = tiny.model(connection=hyper(4, True), num_layers=3)

  @jit
  def connections(key):
    params = nn.unbox(model.init(key, tiny.TOKENS)["params"])
    return {k: v for k, v in hc.params.named_leaves(params) if hc.params.is_connection(k)}

  found = connections(jax.random.key(3))
  expected = dict(hc.params.named_leaves(tiny.at_init(model)))
  assert found and all(k in expected for k in found)
  for name, value in found.items():
    np.testing.assert_array_equal(value, expected[name], err_msg=name)
  reads = [v.argmax(-1).ravel() for k, v in sorted(found.items()) if k.endswith("static_read")]
  # attention of block l is site 2l, its feed-forward 2l + 1
  np.testing.assert_array_equal(reads, [[0, 2, 0], [1, 3, 1]])


def test_a_network_with_zero_dynamic_kernels_is_static():
  shc = tiny.params(tiny.model(connection=tiny.SHC2))
  dhc = tiny.params(tiny.model(connection=tiny.DHC2))
  dhc = tiny.same_branches(shc, dhc)

  def zero(path, leaf):
    return 0 * leaf if "dynamic_kernel" in jax.tree_util.keystr(path) else leaf

  dhc_zero = jax.tree_util.tree_map_with_path(zero, dhc)
  static = tiny.forward(connection=tiny.SHC2)(shc, tiny.TOKENS)
  dynamic = tiny.forward(connection=tiny.DHC2)
  chex.assert_trees_all_close(dynamic(dhc_zero, tiny.TOKENS), static, rtol=1e-5, atol=1e-6)
  assert np.abs(dynamic(dhc, tiny.TOKENS) - static).max() > 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_a_site_with_a_zero_dynamic_kernel_is_static(way):
  n, width = 3, 6
  static = {
    "static_read": normal("read", 1, n),
    "static_mix": normal("mix", n, n),
    "static_write": normal("write", n, 1),
  }

  def both(kernel, streams, y):
    dynamic = {"dynamic_kernel": kernel, "dynamic_scale": np.ones(2, np.float32)}
    found = []
    for params in (static | dynamic, static):
      site = hc.HyperConnection(num_streams=n, dynamic=params is not static)
      h, coefs = site.apply({"params": params}, streams, 0)
      found.append((h, site.apply({"params": params}, streams, y, coefs, method="write")))
    return found

  streams, y = normal("streams", 4, 5, n, width), normal("y", 4, 5, width)
  zero = functools.partial(both, np.zeros((width, n + 2), np.float32))
  chex.assert_trees_all_close(*run_by(way, zero, streams, y), rtol=1e-6, atol=1e-6)
  other = functools.partial(both, normal("kernel", width, n + 2))
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(*run_by(way, other, streams, y), rtol=1e-2, atol=1e-2)


def matrix(text):
  """Coefs from the rows of the paper's `[[0, B], [A_m, A_r]]`, written "0BB/mrr/mrr"."""
  rows = np.float32([[int(c) for c in row] for row in text.split("/")])
  return hc.Coefs(read=rows[1:, :1].T, write=rows[:1, 1:].T, mix=rows[1:, 1:].T)


def branch(x, k):
  """Some nonlinear branch of site k."""
  return jnp.tanh(x @ normal(f"branch{k}", 6, 6)) + 0.1 * k


def run(texts, streams):
  """One site after another, with hand-set coefficients."""
  for k, text in enumerate(texts):
    coefs = matrix(text)
    streams = hc.write(streams, branch(hc.read(streams, coefs), k), coefs)
  return streams


def test_matrix_is_read_as_as_matrix_writes_it():
  text = [[0, 5, 7], [2, 1, 9], [3, 8, 4]]
  coefs = matrix("/".join("".join(map(str, row)) for row in text))
  np.testing.assert_array_equal(coefs.as_matrix(), text)


@pytest.mark.parametrize("way", WAYS)
def test_arrangements(way):
  """Table of Coefs and what each does exactly: T_k is the branch of site k."""
  x = normal("x", 4, 6)
  a, b = normal("a", 4, 6), normal("b", 4, 6)

  def both(x, a, b):
    pair = jnp.stack([a, b], axis=-2)
    start = jnp.stack([x, jnp.zeros_like(x)], axis=-2)
    t, s = branch, a + b
    y0 = x + t(x, 0)
    found, expected = {}, {}
    # Pre-Norm, n = 1 (Eq. 15)
    found["pre-norm"] = run(["01/11"] * 2, hc.expand(x, 1))[..., 0, :]
    expected["pre-norm"] = y0 + t(y0, 1)
    # sequential, n = 2 (Eq. 17, 42): every stream is the Pre-Norm residual
    found["sequential"] = run(["011/110/001"] * 2, hc.expand(x, 2))
    expected["sequential"] = jnp.stack([y0 + t(y0, 1)] * 2, axis=-2)
    # parallel pair, n = 2 (Eq. 18-19, 53-55): the residual is multiplied by n
    found["parallel"] = hc.reduce(run(["010/111/111", "001/010/101"], pair))
    expected["parallel"] = 2 * s + t(s, 0) + t(s, 1)
    # the same with unit gain, from (x, 0)
    found["unit gain"] = hc.reduce(run(["010/111/111", "001/010/100"], start))
    expected["unit gain"] = x + t(x, 0) + t(x, 1)
    # two hops: attention's output reaches the feed-forward alone
    found["two hops"] = run(["001/110/000", "010/110/100"], start)
    end = x + t(x + t(x, 0), 1)
    expected["two hops"] = jnp.stack([end, jnp.zeros_like(x)], axis=-2)
    return found, expected

  found, expected = run_by(way, both, x, a, b)
  chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_post_norm_is_a_matrix_that_depends_on_the_data(way):
  """`[[0, g], [1, g]]` with g = 1 / sqrt(var x + var y + 2 cov xy) (Eq. 16, 37) is LN(x + y)."""
  x, y = normal("x", 4, 5, 12), 2 * normal("y", 4, 5, 12)
  x, y = (z - z.mean(-1, keepdims=True) for z in (x, y))

  def post_norm(x, y):
    g = 1 / jnp.sqrt(jnp.mean(x * x + y * y + 2 * x * y, axis=-1))[..., None, None]
    coefs = hc.Coefs(read=jnp.ones((1, 1)), write=g, mix=g)
    return hc.write(hc.expand(x, 1), y, coefs)[..., 0, :]

  s = x + y
  expected = (s - s.mean(-1, keepdims=True)) / s.std(-1, keepdims=True)
  found = run_by(way, post_norm, x, y)
  chex.assert_trees_all_close(np.asarray(found), expected, rtol=1e-4, atol=1e-5)


def test_output_init_scale_and_the_final_standard_deviation():
  """At init every stream is the residual stream, so hidden = n (x + s sum of branches).

  Branches see normed inputs, so their outputs grow with the scale s of the output projection
  alone. So std(hidden) = n sqrt(var_x + s^2 T), T the variance of the branches together at s = 1.
  """
  of = functools.partial(tiny.model, d_model=64, d_ff=96, num_layers=3)
  residual = of(connection=tiny.RESIDUAL)
  hidden = jit(lambda model_params, tokens: residual.apply(model_params, tokens, method="hidden"))
  hyper4 = of(connection=hyper(4, False))
  hidden4 = jit(lambda model_params, tokens: hyper4.apply(model_params, tokens, method="hidden"))
  params = tiny.params(residual, kick=0.1)
  tokens = np.arange(tiny.VOCAB, dtype=np.int32)[None, :12]

  def scaled(params, s):
    def scale(path, leaf):
      return s * leaf if "out_kernel" in jax.tree_util.keystr(path) else leaf

    return {"params": jax.tree_util.tree_map_with_path(scale, params)}

  def std(s):
    return float(np.std(hidden(scaled(params, s), tokens)))

  var_x = std(0.0) ** 2
  branches = std(1.0) ** 2 - var_x
  at_init = tiny.same_branches(params, tiny.at_init(hyper4))
  for n, s in ((4, 1.0), (4, 2.0)):
    found = float(np.std(hidden4(scaled(at_init, s), tokens)))
    np.testing.assert_allclose(found, n * std(s), rtol=1e-4)  # exactly n streams that are equal
    np.testing.assert_allclose(found, n * np.sqrt(var_x + s**2 * branches), rtol=0.1)
  # So sqrt(n) does not keep the residual network's standard deviation: it adds to the factor n.
  assert float(np.std(hidden4(scaled(at_init, 2.0), tokens))) > 4 * std(1.0) > std(1.0)
