"""Multi-head attention residuals: conformance, heads by hand, the end, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import ops
from hc_jax.analysis import collect_sites, measures
from hc_jax.connections.contrib import MultiHeadAttentionResiduals
from hc_jax.connections.ends import own_fractions
from hc_jax.testing.compiled import jit, normal
from tests.connections.contrib import rows
from tests.models import tiny

KEY = jax.random.key(0)
MHAR = MultiHeadAttentionResiduals
CASES = {
  "MHAR": functools.partial(MHAR),
  "MHAR-blocks": functools.partial(MHAR, fractions=2, block_sites=3),
  "MHAR-views": functools.partial(MHAR, fractions=2, num_views=3),
}


@pytest.mark.parametrize("case, check", rows.of(CASES))
def test_conforms(case, check):
  rows.run(CASES, case, check)


def params_of(heads, width, name=""):
  return {
    "depth_query": normal("query" + name, 1, heads, width // heads),
    "norm_scale": 1 + 0.3 * normal("scale" + name, heads, width // heads),
  }


def by_hand(sources, query, scale):
  """The paper's Eq. 3, source by source and head by head."""
  keys = [s / np.sqrt(np.mean(s**2, -1, keepdims=True) + 1e-6) * scale.ravel() for s in sources]
  out, start = [], 0
  for head in query[0]:
    part = slice(start, start + len(head))
    scores = np.exp([key[..., part] @ head for key in keys])
    alpha = scores / scores.sum(0)
    out.append(sum(a[..., None] * s[..., part] for a, s in zip(alpha, sources, strict=True)))
    start += len(head)
  return np.concatenate(out, axis=-1)


@pytest.mark.parametrize(
  "heads, block",
  [(2, 3), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(4, 1), (1, 2)])],
)
def test_heads_choose_from_outputs_kept_in_a_list(heads, block):
  """The loop of the paper: sources are appended, a block is a sum so far."""
  sites, x = 5, normal("x", 3, 8)
  module = MHAR(num_sites=sites, block_sites=block, fractions=heads)
  assert module.num_streams == heads * (-(-sites // block) + 1)
  streams = hc.Expand(module.num_streams, heads, kind="first").apply({}, x)
  run = jit(lambda params, streams, index: module.apply({"params": params}, streams, index))
  bank, so_far = [], np.float64(x)
  for index in range(sites):
    params = params_of(heads, 8, str(index))
    h, coefs = run(params, streams, index)
    want = by_hand([*bank, so_far], **by_name(params))
    np.testing.assert_allclose(h, want, rtol=1e-4, atol=1e-5)
    if index % block == 0:
      bank, so_far = [*bank, so_far], 0.0
    so_far = so_far + np.sin(want + index)
    streams = hc.write(streams, jnp.sin(h + index), coefs)
    assert coefs.mix is None and int(coefs.slot) == index // block + 1
  last = params_of(heads, 8, "end")
  end = {"depth_query": last["depth_query"][0], "scale": last["norm_scale"]}
  end = {name: leaf.reshape(8) if heads == 1 else leaf for name, leaf in end.items()}
  found = hc.Reduce(heads, kind="depth").apply({"params": end}, streams)
  np.testing.assert_allclose(found, by_hand([*bank, so_far], **by_name(last)), rtol=1e-4, atol=1e-5)


def by_name(params):
  return {"query": np.float64(params["depth_query"]), "scale": np.float64(params["norm_scale"])}


@pytest.mark.slow
def test_one_head_is_attention_residuals():
  one, plain = MHAR(num_sites=4, fractions=1), hc.AttentionResiduals(num_sites=4)
  streams, params = normal("streams", 3, 5, 8), params_of(1, 8)
  flat = {"depth_query": params["depth_query"][:, 0], "norm_scale": params["norm_scale"][0]}
  for index in range(4):
    found = hc.site_maps(one, params, streams, index)
    want = hc.site_maps(plain, flat, streams, index)
    np.testing.assert_allclose(found.read, want.read, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found.write, want.write)


@pytest.mark.slow
def test_heads_add_no_parameters():
  for heads in (1, 4, 8):
    assert MHAR(fractions=heads).num_params(768) == 2 * 768
  assert MHAR(fractions=4, num_views=3).num_params(768) == 4 * 768
  model = tiny.model(connection=MHAR)
  init = jax.eval_shape(model.init, KEY, tiny.TOKENS)["params"]
  assert hc.param_count(init).connection == 4 * 2 * 16 + 2 * 16
  start = hc.init_site(MHAR(num_sites=4), KEY, 4096, 0)
  np.testing.assert_allclose(np.std(start["depth_query"]), 0.02, rtol=0.05)
  np.testing.assert_array_equal(start["norm_scale"], 1)


@pytest.mark.parametrize("derivatives", ops.DERIVATIVES)
def test_a_slot_of_several_streams_is_written_as_the_whole_matrix(derivatives):
  streams, y, slot = normal("streams", 3, 8, 4), normal("y", 3, 8), jnp.int32(2)
  block = normal("block", 2, 2)
  write = np.zeros((8, 2), np.float32)
  write[4:6] = block

  def run(write, streams, y, slot):
    coefs = hc.Coefs(np.ones((2, 8), np.float32), write, None, slot=slot)
    out = hc.write(streams, y, coefs, derivatives=derivatives)
    return jnp.sum(jnp.sin(out)), out

  grads = jax.grad(run, argnums=(0, 1, 2), has_aux=True)
  (found, out), (want, dense) = (grads(write, streams, y, s) for s in (slot, None))
  np.testing.assert_allclose(out, dense, rtol=1e-6)
  np.testing.assert_array_equal(out[:, [0, 1, 2, 3, 6, 7]], streams[:, [0, 1, 2, 3, 6, 7]])
  np.testing.assert_allclose(found[0][4:6], want[0][4:6], rtol=1e-5, atol=1e-6)
  for a, b in zip(found[1:], want[1:], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_groups_are_normed_and_projected_as_one_vector():
  streams, query, scale = normal("x", 3, 6, 4), normal("q", 2, 2, 4), 1 + normal("s", 2, 4)
  whole = np.float64(streams).reshape(3, 3, 8)
  normed = whole / np.sqrt(np.mean(whole**2, -1, keepdims=True) + 1e-5) * scale.reshape(8)
  want = np.einsum("tshw,vhw->tsvh", normed.reshape(3, 3, 2, 4), query).reshape(3, 3, 4)
  for derivatives in ops.DERIVATIVES:
    options = {"norm": "rmsnorm", "scale": scale, "norm_over": "group", "derivatives": derivatives}
    found = ops.project(streams, own_fractions(jnp.asarray(query)), **options)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
  for kernel in (normal("k", 4, 2), normal("k", 4, 4, 2)):
    with pytest.raises(ValueError, match=r"there are 6 streams; give a g that divides 6"):
      ops.project(streams, kernel, norm_over="group")


@pytest.mark.slow
def test_the_unfolded_matrix_rebuilds_every_input():
  model = tiny.model(connection=functools.partial(MHAR, block_sites=3))
  sites = list(collect_sites(model, tiny.params(model), tiny.TOKENS).values())
  few = measures.some_tokens(sites, 5)
  matrix, _, away = measures.unfolding(few)
  assert matrix.shape[-1] == 5 * 4 and away < 1e-5


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"fractions": 3}, "d_model=16 cannot be cut into fractions=3"),
    ({"fractions": 0}, "fractions=0 must be at least 1"),
    ({"num_streams": 5}, "a slot of 4 streams for each of 4 blocks .* or set it to 20"),
    ({"block_sites": 0}, "block_sites=0 must be at least 1"),
  ],
)
def test_fields_that_do_not_go_together_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    tiny.model(connection=functools.partial(MHAR, **fields)).check()


def test_ends_and_places_that_it_does_not_have_are_refused():
  for fields, words in (
    ({"reduce": "sum"}, "reduce='sum' does not go with MultiHeadAttentionResiduals"),
    ({"expand": "copy"}, "whose slots are empty at first"),
    ({"norm_position": "post"}, "some must keep earlier states"),
  ):
    with pytest.raises(ValueError, match=words):
      tiny.model(connection=MHAR, **fields).check()
  with pytest.raises(ValueError, match=r"num_sites=None .* give it: .*num_sites=8"):
    hc.init_site(MHAR(), KEY, 8, 0)
