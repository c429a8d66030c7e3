"""x0-lambdas and backout, against the few lines that they are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.analysis import collect_sites
from hc_jax.analysis.measures import unfolding
from hc_jax.testing.compiled import jit, normal
from tests.models import tiny

KEY = jax.random.key(0)
BACKOUT = functools.partial(hc.X0Lambdas, backout=True)


def params_of(sites, **fields):
  """Initial numbers of every first site of a block of two."""
  make = functools.partial(hc.X0Lambdas, num_sites=sites, sites_per_block=2, **fields)
  found = [hc.init_site(make(site_in_block=i % 2), KEY, 8, i) for i in range(sites)]
  assert found[1::2] == [{}] * (sites // 2)
  return np.stack([p["lambdas"] for p in found[::2]])


def test_numbers_start_as_in_nanochat():
  want = [[1.15, 0.2], [1.10, 0.125], [1.05, 0.05]]
  np.testing.assert_allclose(params_of(6), want, rtol=1e-6)
  np.testing.assert_allclose(params_of(2), want[:1], rtol=1e-6)  # one block: no division by zero
  np.testing.assert_allclose(params_of(6, backout=True), want, rtol=1e-6)
  of_block = [hc.X0Lambdas(site_in_block=i) for i in (None, 0, 1)]
  assert [site.num_params(64) for site in of_block] == [2, 2, 0]


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("connection", [hc.X0Lambdas, BACKOUT])
def test_a_model_counts_and_starts_them_a_block_each(connection, scan):
  model = tiny.model(connection=connection, num_layers=4, scan=scan)
  init = jax.eval_shape(model.init, KEY, tiny.TOKENS)["params"]
  ends = 1 if connection is BACKOUT else 0
  assert hc.param_count(init).connection == 4 * 2 + ends
  if scan:
    layers = jit(lambda key: model.init(key, tiny.TOKENS)["params"]["stack"]["layers"])(KEY)
    found = layers["attn_connection"]["lambdas"].unbox()
    np.testing.assert_allclose(found, params_of(8), rtol=1e-6)
    assert "ffn_connection" not in layers


def by_hand(x0, lambdas, scale, blocks, middle):
  """nanochat's loop, around two cheap branches a block."""
  x = x0
  for i in range(blocks):
    if i == middle:
      kept = x
    x = lambdas[i, 0] * x + lambdas[i, 1] * x0
    for k in (2 * i, 2 * i + 1):
      x = x + np.sin(x + k)
  return x - scale * kept if scale else x


@pytest.mark.parametrize(
  "fields, middle", [({}, None), ({"backout": True}, 3), ({"backout": True, "backout_block": 1}, 1)]
)
def test_it_is_the_loop_of_the_code(fields, middle):
  x0, blocks = normal("x0", 3, 8), 4
  lambdas = 1 + 0.3 * normal("lambdas", blocks, 2)
  make = functools.partial(hc.X0Lambdas, **fields, num_sites=8, sites_per_block=2)
  streams = hc.expand(x0, make().num_streams)
  for index in range(8):
    site = make(site_in_block=index % 2)
    params = {} if index % 2 else {"lambdas": lambdas[index // 2]}
    coefs = hc.site_maps(site, params, streams, index)
    assert (coefs.mix is None) == (coefs.slot is not None) == bool(index % 2)
    streams = hc.write(streams, jnp.sin(hc.read(streams, coefs) + index), coefs)
  end = hc.Reduce(kind=make().reduce_kind)
  found, variables = end.init_with_output(KEY, streams)
  if middle is not None:
    np.testing.assert_allclose(variables["params"]["scale"], [0.2], rtol=1e-6)
  want = by_hand(np.float64(x0), lambdas, 0.2 if middle is not None else 0, blocks, middle)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("connection", [hc.X0Lambdas, BACKOUT])
def test_its_layer_inputs_are_rebuilt(connection):
  model = tiny.model(connection=connection, num_layers=3)
  sites = list(collect_sites(model, tiny.params(model), tiny.TOKENS).values())
  assert [site.coefs.mix is None for site in sites] == [False, True] * 3
  matrix, _, error = unfolding(sites)
  assert error < 1e-5
  want = 0  # the embedding in the state at the end, not in the streams that keep it
  for site in sites[::2]:
    a, b = site.coefs.mix[0][:2]
    want = a * (1 if site is sites[0] else want) + b
  np.testing.assert_allclose(matrix[..., -1, 0].ravel(), want, rtol=1e-5)
  np.testing.assert_allclose(matrix[..., -1, -1].ravel(), 1)


def test_in_a_parallel_block_every_site_begins_one():
  model = tiny.model(connection=hc.X0Lambdas, num_layers=3, block="parallel")
  layers = jit(lambda key: model.init(key, tiny.TOKENS)["params"]["stack"]["layers"])(KEY)
  np.testing.assert_allclose(layers["connection"]["lambdas"].unbox(), params_of(6), rtol=1e-6)


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"num_streams": 4}, "num_streams=4: X0Lambdas with backout=False has 2 streams; leave"),
    ({"fractions": 2}, "X0Lambdas has one fraction"),
    ({"backout_block": 1}, "backout_block=1 needs backout=True"),
    ({"backout": True}, "backout=True needs 3 blocks, not 2"),
    ({"backout": True, "backout_block": 2}, "backout_block=2 is not a .* choose one from 1 to 1"),
    ({"backout": True, "backout_block": 0}, "backout_block=0 is not a .* choose one from 1 to 1"),
    ({"num_sites": 3, "sites_per_block": 2}, "num_sites=3 is not a multiple of sites_per_block=2"),
  ],
)
def test_fields_that_do_not_go_together_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    tiny.model(connection=functools.partial(hc.X0Lambdas, **fields)).check()


def test_what_does_not_go_together_is_refused():
  with pytest.raises(ValueError, match="num_sites=None but needs it"):
    hc.init_site(hc.X0Lambdas(), KEY, 8, 0)
  for reduce in ("sum", "head", "backout"):
    with pytest.raises(ValueError, match="does not go with X0Lambdas, which has 'first'"):
      tiny.model(connection=hc.X0Lambdas, reduce=reduce).check()
  with pytest.raises(ValueError, match="reduce='first' does not go with HyperConnection"):
    tiny.model(connection=hc.HyperConnection, reduce="first").check()
  with pytest.raises(ValueError, match="subtracts a part of stream 2, but there are 2 streams"):
    hc.Reduce(kind="backout").init(KEY, hc.expand(normal("x", 3, 8), 2))
  for own in (hc.X0Lambdas, hc.SimplifiedAltUp):
    with pytest.raises(ValueError, match="have different roles and cannot be handed on; leave lay"):
      tiny.model(layers=((1, hc.Residual), (1, own)), num_layers=None).check()
