"""Partitioned hyper-connections: conformance, the loop of the code, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.analysis import collect_sites
from hc_jax.analysis.measures import unfolding
from hc_jax.connections.contrib import PartitionedHC
from hc_jax.testing.compiled import normal
from tests.connections.contrib import rows
from tests.models import tiny

KEY = jax.random.key(0)
CASES = {
  "PartitionedHC": functools.partial(PartitionedHC),
  "PartitionedHC-all": functools.partial(PartitionedHC, first_block=0),
  "PartitionedHC-views": functools.partial(PartitionedHC, num_views=3),
}


@pytest.mark.parametrize("case, check", rows.of(CASES))
def test_conforms(case, check):
  rows.run(CASES, case, check)


def by_hand(x, sites, weights, start):
  """Runs the loop of the code: one lane, and from block `start` on two lanes."""
  lane0, lane1 = x, None
  for k in range(sites):
    resid_lambda, post = weights[k]
    if k == 2 * start:
      lane1 = lane0
    out = np.sin((lane1 if lane1 is not None and k % 2 else lane0) + k)
    if lane1 is not None:
      lane1 = resid_lambda * lane1 + post[1] * out
    lane0 = resid_lambda * lane0 + post[0] * out
  return (lane0 + lane1) / 2


@pytest.mark.parametrize(
  "blocks, first, start", [(3, None, 1), (11, None, 7), (3, 0, 0), (3, 2, 2)]
)
def test_it_is_the_loop_of_the_code(blocks, first, start):
  sites = 2 * blocks
  module = PartitionedHC(num_sites=sites, first_block=first)
  x, weights = normal("x", 3, 8), []
  streams = hc.expand(x, 2)
  for k in range(sites):
    params = {
      "static_write": 1 + 0.3 * normal(f"write{k}", 2),
      "mix_scale": 1 + 0.1 * normal(f"mix{k}", 1),
    }
    weights.append((params["mix_scale"][0], params["static_write"]))
    coefs = hc.site_maps(module, params, streams, k)
    streams = hc.write(streams, jnp.sin(hc.read(streams, coefs) + k), coefs)
  found = hc.Reduce(kind="mean").apply({}, streams)
  want = by_hand(np.float64(x), sites, weights, start)
  np.testing.assert_allclose(found, want, rtol=2e-5, atol=1e-5)


def test_three_numbers_a_site_start_as_in_the_code():
  module = PartitionedHC(num_sites=4)
  assert module.num_params(768) == 3
  for index, other in enumerate([1.5, 1, 1.5, 1]):
    start = hc.init_site(module, KEY, 8, index)
    np.testing.assert_allclose(start["static_write"], [1, other])
    np.testing.assert_allclose(start["mix_scale"], [1.1**0.5], rtol=1e-6)
  init = jax.eval_shape(tiny.model(connection=PartitionedHC).init, KEY, tiny.TOKENS)["params"]
  assert hc.param_count(init).connection == 4 * 3


@pytest.mark.slow
def test_its_layer_inputs_are_rebuilt():
  model = tiny.model(connection=PartitionedHC, num_layers=3)
  sites = list(collect_sites(model, tiny.params(model), tiny.TOKENS).values())
  assert [int(np.argmax(site.coefs.read)) for site in sites] == [0, 1] * 3
  assert unfolding(sites)[2] < 1e-5


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"num_streams": 4}, "num_streams=4: PartitionedHC has one stream for attention"),
    ({"fractions": 2}, "PartitionedHC has one fraction"),
    ({"first_block": -1}, "first_block=-1 must be at least 0"),
    ({"first_block": 1.5}, "first_block=1.5 must be a whole number"),
    ({"first_block": 2}, "first_block=2 is not one of 2 blocks; choose one from 0 to 1"),
  ],
)
def test_fields_that_do_not_go_together_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    tiny.model(connection=functools.partial(PartitionedHC, **fields)).check()


def test_a_network_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r'sites_per_block=1: .* choose block="sequential"'):
    tiny.model(connection=PartitionedHC, block="parallel").check()
  with pytest.raises(ValueError, match="num_sites=3 is odd"):
    hc.init_site(PartitionedHC(num_sites=3), KEY, 8, 0)
  with pytest.raises(ValueError, match=r"num_sites=None .* give it: PartitionedHC\(num_sites=8\)"):
    hc.init_site(PartitionedHC(), KEY, 8, 0)
