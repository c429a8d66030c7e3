"""Tests of analysis tools on an NNX model: sites, report, ablation, checks, baseline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hc_jax as hc
from hc_jax import analysis
from hc_jax.analysis import report
from hc_jax.analysis.stream_ablation import ablate_streams
from hc_jax.testing import check_model
from hc_jax.testing.compiled import normal
from tests.test_docs import ROOT, run
from tests.test_nnx import Linen, as_linen, distance, kick

pytestmark = pytest.mark.slow
X = normal("x", 2, 5, 8)


@pytest.fixture(scope="module")
def page():
  return run(ROOT / "docs" / "nnx.md")


@pytest.fixture
def model(page):
  model = page["Model"](8, 3, rngs=nnx.Rngs(0))
  kick(model)
  return model


def test_sites_are_those_of_linen(model, tmp_path):
  found = analysis.collect_sites(model, None, X)
  params = as_linen(nnx.state(model, nnx.Param))
  want = analysis.collect_sites(Linen(), params, X)
  assert list(found) == [f"blocks/{i}/connection" for i in range(3)]
  for site, other in zip(found.values(), want.values(), strict=True):
    assert site.index == other.index
    for field in ("streams", "branch_input", "branch_output", "coefs"):
      assert distance(getattr(site, field), getattr(other, field)) < 1e-6, field
  maps = analysis.collect_coefs(model, nnx.to_pure_dict(nnx.state(model, nnx.Param)), X)
  assert distance(maps, [site.coefs for site in found.values()]) == 0
  lost = ablate_streams(model, None, found, X)
  np.testing.assert_allclose(lost, ablate_streams(Linen(), params, want, X), rtol=1e-4, atol=1e-6)
  paths = report.write_report(found, tmp_path, log=lambda line: None, formats=("png",))
  assert str(tmp_path / "analysis.html") in paths


def test_sites_of_scanned_layers_are_told_apart_by_their_calls(page):
  class Scanned(nnx.Module):
    def __init__(self):
      keys = jax.random.split(jax.random.key(0), 3)
      self.blocks = page["make"](keys, jnp.arange(3))

    def __call__(self, x):
      return hc.reduce(page["run"](hc.expand(x, 4), self.blocks))

  found = analysis.collect_sites(Scanned(), None, X)
  assert list(found) == [f"blocks/connection/call_{i}" for i in range(3)]
  assert [site.index for site in found.values()] == [0, 1, 2]
  for i, site in enumerate(found.values()):
    np.testing.assert_array_equal(site.coefs.read[0, 0, 0], np.eye(4)[i])


def test_the_checks_pass_and_find_a_mistake(page):
  model = page["Model"](8, 3, rngs=nnx.Rngs(0))
  report = check_model(model, X, log=None)
  assert report.ok, str(report)
  assert sum(line.state == "pass" for line in report.lines) >= 11

  class Forgets(page["Block"]):
    def __call__(self, streams):
      h, coefs = self.connection(streams)
      y = self.dense(h)
      coefs = coefs.replace(write=jnp.ones_like(coefs.write))
      return self.connection.write(streams, y, coefs)

  model.blocks[1] = Forgets(8, 1, rngs=nnx.Rngs(0))
  broken = {line.name: line.why for line in check_model(model, X, log=None).broken}
  assert "blocks/1/connection" in broken["write takes the coefs of its read"]


def test_the_residual_network_is_a_copy_without_the_connections(model):
  plain = hc.as_residual(model)
  assert isinstance(plain, type(model)) and type(plain).__name__ == "Model"
  names = dict(hc.params.named_leaves(nnx.state(plain, nnx.Param)))
  ours = dict(hc.params.named_leaves(nnx.state(model, nnx.Param)))
  assert set(names) == {name for name in ours if not hc.params.is_connection(name)} != set(ours)
  with hc.plain_residual():
    want = model(X)
  np.testing.assert_array_equal(plain(X), want)
  grads = nnx.jit(nnx.grad(lambda m: jnp.sum(m(X) ** 2)))(plain)
  assert all(np.any(g) for g in jax.tree.leaves(grads))
  assert not np.allclose(model(X), want)  # the model itself is unchanged
  sites = analysis.collect_sites(plain, None, X)
  assert all(site.streams.shape[-2] == 1 for site in sites.values())


def test_a_site_that_the_output_does_not_need_is_named(page):
  class Aside(page["Model"]):
    def __call__(self, x):
      self.blocks[2](hc.expand(x, 4))
      return hc.reduce(self.blocks[1](self.blocks[0](hc.expand(x, 4))))

  with pytest.raises(ValueError, match="blocks/2/connection: the output does not depend on"):
    analysis.collect_sites(Aside(8, 3, rngs=nnx.Rngs(0)), None, X)


def test_residual_networks_of_one_class_compile_once(model):
  first, second = hc.as_residual(model), hc.as_residual(model)
  assert type(first) is type(second) and nnx.graphdef(first) == nnx.graphdef(second)


def test_what_is_no_model_is_refused():
  with pytest.raises(TypeError, match="function is neither a Linen nor an NNX module"):
    check_model(lambda x: x, X)
  with pytest.raises(TypeError, match="int is neither a Linen nor an NNX module"):
    analysis.collect_sites(3, None, X)
  with pytest.raises(ValueError, match="Linear ran without a connection of hc_jax"):
    analysis.collect_sites(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), None, X)
