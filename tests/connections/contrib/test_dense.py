"""DenseFormer and MUDD around whole blocks: conformance, equations, counts, what does not fit."""

import functools
import importlib
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hc_jax as hc
from hc_jax.ablate import load_sweep
from hc_jax.analysis import collect_sites, measures
from hc_jax.connections.contrib import MUDD, DenseFormer
from hc_jax.models import Norm, TokenContext, WholeBlock, unstack_layers
from hc_jax.testing import check_model
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.conformance.candidate import Candidate
from hc_jax.testing.conformance.suite import CONFORMANCE, NotApplicable
from hc_jax.testing.reference import transformer
from tests.models import by_hand, tiny

FAMILY = pathlib.Path(__file__).parents[3] / "configs" / "ablations" / "family.py"
KEY = jax.random.key(0)
CASES = {
  "DenseFormer": (DenseFormer, {}),
  "DenseFormer-views": (DenseFormer, {"num_views": 4}),
  "MUDD": (MUDD, {}),
  "MUDD-views": (MUDD, {"num_views": 4}),
  "MUDD-normed": (MUDD, {"normed": True}),
  "MUDD-normed-views": (MUDD, {"normed": True, "num_views": 4}),
}
FAST, SLOW = ("maps",), ("counts", "grads", "exact")


@functools.cache
def candidate(case):
  cls, fields = CASES[case]
  return Candidate(case, functools.partial(cls, **fields))


def marked():
  for case in CASES:
    for check in CONFORMANCE:
      defaults = not CASES[case][1]
      plain = check.name in FAST and defaults
      slow = check.name in FAST or (check.name in SLOW and defaults)
      marks = pytest.mark.slow if slow else pytest.mark.exhaustive
      yield pytest.param(case, check, id=f"{case}-{check.name}", marks=() if plain else marks)


@pytest.mark.parametrize("case, check", list(marked()))
def test_conforms(case, check):
  try:
    check.run(candidate(case))
  except NotApplicable as reason:
    pytest.skip(str(reason))


def model(cls=DenseFormer, **fields):
  connection = functools.partial(cls, **fields.pop("connection", {}))
  return tiny.model(**{"block": "whole", "num_layers": 3, "connection": connection, **fields})


def without_padding(params, views=1):
  """The parameters of a loop without padding, taken from those of a scan."""
  params = unstack_layers(params)
  for index in range(3):
    slots, hidden = slice(index + 1), slice(views * (index + 1))
    site = params["stack"][f"layer_{index}"]["connection"]
    site["static_read"] = site["static_read"][:, slots]
    if "hidden_kernel" in site:
      site["hidden_kernel"] = site["hidden_kernel"][:, hidden]
      site["weights_kernel"] = site["weights_kernel"][hidden, :, slots]
  del params["stack"]["layer_0"]["connection"]
  return params


@pytest.mark.parametrize("scan", [True, False])
def test_every_block_reads_a_sum_of_the_outputs_before_it(scan):
  """X_i = B_i(Y_{i-1}), Y_i = sum_j alpha_ij X_j, Y_0 = X_0; the end is Y_L; padded or not."""
  padded = model()
  params = tiny.params(padded)
  layers = by_hand.Layers(padded, params)
  states = [layers.x]
  for layer in range(3):
    alpha = layers._at(layer, "connection")["static_read"][0]
    h = sum(a * x for a, x in zip(alpha, states, strict=False)) if layer else states[0]
    h = h + layers.attn(layer, layers.norm(layer, "attn_norm", h))
    states.append(h + layers.ffn(layer, layers.norm(layer, "ffn_norm", h)))
  alpha = layers.params["reduce_streams/static_read"][0]
  want = layers.logits(sum(a * x for a, x in zip(alpha, states, strict=True)))
  run = padded if scan else model(scan=False, remat="branches", connection={"padded": False})
  params = params if scan else without_padding(params)
  assert jax.tree.map(np.shape, params) == jax.tree.map(
    lambda leaf: leaf.shape, hc.axes.unboxed(tiny.shapes(run))
  )
  by_hand.close(jit(lambda p: run.apply({"params": p}, tiny.TOKENS))(params), want)


@pytest.mark.parametrize("scan, normed", [(True, False), (False, False), (False, True)])
def test_weights_of_a_token_come_of_its_newest_state(scan, normed):
  """Eq. 6-8: A_i = GELU(RMSNorm(X_i) W1) W2 + a, for queries, keys, values and the residual.

  With norms (Eq. 10) the inputs are Norm(sum_j A_ij Norm(X_j)) + X_i, the outer norm with a scale.
  """
  padded = model(MUDD, attention_views=True, connection={"normed": normed})
  params = tiny.params(padded)
  layers = by_hand.Layers(padded, params)
  states = [layers.x]

  def rms(x):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)

  def sums(p, ways):
    """The inputs of block l, of states 0 .. l; W1 has as many columns as four ways have weights."""
    z = rms(states[-1]) @ p["hidden_kernel"][:, : 4 * len(states)]
    gelu = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    A = np.einsum("blk,kcj->blcj", gelu, p["weights_kernel"][: 4 * len(states)]) + p["static_read"]
    x = [rms(x) for x in states] if normed else states
    found = [sum(A[..., c, j, None] * x[j] for j in range(len(x))) for c in range(ways)]
    if not normed:
      return found
    return [g * rms(u) + states[-1] for g, u in zip(p["read_scale"], found, strict=True)]

  for layer in range(3):
    p = layers._at(layer, "connection")
    *read, h = sums(p, 4) if layer else [layers.x] * 4
    read = [layers.norm(layer, "attn_norm", x) for x in read]
    h = h + layers.attn(layer, read)
    states.append(h + layers.ffn(layer, layers.norm(layer, "ffn_norm", h)))
  (end,) = sums(transformer.below(layers.params, "reduce_streams"), 1)
  of_loop = {"padded": False, "normed": normed}
  fields = {"scan": False, "remat": "blocks:3", "connection": of_loop}
  run = padded if scan else model(MUDD, attention_views=True, **fields)
  params = params if scan else without_padding(params, views=4)
  by_hand.close(jit(lambda p: run.apply({"params": p}, tiny.TOKENS))(params), layers.logits(end))


@pytest.mark.slow
def test_dynamic_weights_count_padded_for_a_scan_and_not():
  d = 16
  for depth, views in ((3, 4), (3, 1)):
    found = []
    for padded in (True, False):
      fields = {"num_layers": depth, "scan": padded, "attention_views": views > 1}
      params = tiny.shapes(model(MUDD, **fields, connection={"padded": padded}))
      found.append(hc.param_count(params).connection)
      decays = hc.params.named_leaves(hc.decay_mask(params, default="error"))
      found_decays = {k.rsplit("/", 1)[-1]: v for k, v in decays if hc.params.is_connection(k)}
      wanted = {"hidden_kernel": True, "weights_kernel": True, "static_read": False}
      assert found_decays == wanted

    def site(s, c, v=views):
      return v * s * d + v * c * s * s + c * s

    assert found[0] == depth * site(depth + 1, views) + site(depth + 1, 1)
    assert found[1] == sum(site(k + 1, views) for k in range(1, depth)) + site(depth + 1, 1)
  sites = [MUDD(num_sites=3, num_views=4, padded=False).num_params(64, k) for k in range(3)]
  assert sites == [0, 4 * 2 * 64 + 8 * 8 + 8, 4 * 3 * 64 + 12 * 12 + 12]
  # Table 1 of the paper: kernels are (L + 3) / 6d of a network of 12 L d^2.
  L, d = 32, 2560
  loop = MUDD(num_sites=L, num_views=4, padded=False)
  kernels = [loop.declare(d, k)["hidden_kernel"].shape for k in range(1, L)]
  kernels.append(loop.exit().declare(d, L)["hidden_kernel"].shape)
  assert sum(rows * columns for rows, columns in kernels) == 2 * d * L * (L + 3)


def test_normed_sums_start_as_nothing_and_end_in_one_scale_a_way():
  module = MUDD(num_sites=4, num_views=4, normed=True)
  params = hc.init_site(module, KEY, 8, 2)
  assert module.num_params(8) == MUDD(num_sites=4, num_views=4).num_params(8) + 4
  assert not params["static_read"].any() and not params["weights_kernel"].any()
  np.testing.assert_array_equal(params["read_scale"], np.float32([1e-3] * 4))
  maps = hc.site_maps(module, params, normal("streams", 3, 5, 8), 2)
  np.testing.assert_array_equal(maps.read, np.tile(np.eye(5)[2], (3, 4, 1)))
  assert {name: p.shape for name, p in module.exit().declare(8, 4).items()} == {
    "hidden_kernel": (8, 20),
    "weights_kernel": (20, 1, 5),
    "static_read": (1, 5),
    "read_scale": (1,),
  }


def test_without_its_kernel_the_dynamic_form_is_the_static_one():
  dense, mudd = DenseFormer(num_sites=4, num_views=4), MUDD(num_sites=4, num_views=4)
  streams = normal("streams", 3, 5, 8)
  for index in range(4):
    params = hc.init_site(mudd, KEY, 8, index)
    assert not params["weights_kernel"].any()
    np.testing.assert_allclose(params["hidden_kernel"].std(), 8**-0.5, rtol=0.2)
    start = {"static_read": params["static_read"]}
    np.testing.assert_array_equal(start["static_read"], np.tile(np.eye(5)[index], (4, 1)))
    start = {"static_read": start["static_read"] + normal("kick", 4, 5)}
    want = hc.site_maps(dense, start, streams, index)
    found = hc.site_maps(mudd, {**params, **start}, streams, index)
    np.testing.assert_array_equal(found.read, np.broadcast_to(want.read, found.read.shape))
    np.testing.assert_array_equal(found.write, want.write)


def test_counts_padded_for_a_scan_and_not():
  for depth, views in ((1, 4), (3, 1), (3, 4)):
    found = []
    for padded in (True, False):
      fields = {"num_layers": depth, "scan": padded, "attention_views": views > 1}
      params = tiny.shapes(model(**fields, connection={"padded": padded}))
      found.append(hc.param_count(params).connection)
      decays = dict(hc.params.named_leaves(hc.decay_mask(params, default="error")))
      assert not any(value for name, value in decays.items() if hc.params.is_connection(name))
    assert found[0] == views * depth * (depth + 1) + depth + 1
    assert found[1] == views * (depth * (depth + 1) // 2 - 1) + depth + 1
    assert views > 1 or found[1] == depth * (depth + 3) // 2
  sites = [DenseFormer(num_sites=3, padded=False).num_params(64, index) for index in range(3)]
  assert sites == [0, 2, 3] and DenseFormer(num_sites=3).num_params(64) == 4


def test_weights_start_at_the_last_state():
  module = DenseFormer(num_sites=4, num_views=2)
  for index in range(4):
    params = hc.init_site(module, KEY, 8, index)
    maps = hc.site_maps(module, params, normal("streams", 3, 5, 8), index)
    np.testing.assert_array_equal(maps.read, np.tile(np.eye(5)[index], (2, 1)))
    np.testing.assert_array_equal(maps.write[:, 0], np.eye(5)[index + 1])
    assert maps.mix is None and int(maps.slot) == index + 1
  assert module.silent(0) == {"static_read"} and not module.silent(1)


@pytest.mark.parametrize("cls", [DenseFormer, MUDD])
def test_in_nnx_it_is_the_same(cls):
  module = hc.nnx.of(cls)(8, 2, num_sites=4, rngs=nnx.Rngs(0))
  streams = normal("streams", 3, 5, 8)
  params = {name: getattr(module, name)[...] for name in module.names}
  h, coefs = module(streams)
  want, _ = cls(num_sites=4).apply({"params": params}, streams, 2)
  np.testing.assert_array_equal(h, want)
  np.testing.assert_array_equal(module.write(streams, h, coefs)[:, 3], streams[:, 3] + h)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [DenseFormer, MUDD])
def test_the_unfolded_matrix_rebuilds_every_input(cls):
  made = model(cls)
  params = tiny.params(made)
  sites = list(collect_sites(made, params, tiny.TOKENS).values())
  matrix, _, away = measures.unfolding(measures.some_tokens(sites, 5))
  assert away < 1e-5
  if cls is MUDD:
    return
  read = params["stack"]["layers"]["connection"]["static_read"][:, 0]
  np.testing.assert_allclose(matrix[..., 0, 0], 1)
  for site in (1, 2):
    want = np.tile(read[site, : site + 1], (5, 1))
    np.testing.assert_allclose(matrix[..., site, : site + 1], want, 1e-6)
  np.testing.assert_array_equal(matrix[..., 3, :], np.tile(np.eye(4)[3], (5, 1)))


class ByHand(nn.Module):
  """Four blocks of one's own, with their residual inside."""

  connection: functools.partial

  @nn.compact
  def __call__(self, x):
    streams = hc.Expand(5, kind="first")(x)
    for i in range(4):
      connection = self.connection(name=f"connection{i}_connection")
      h, coefs = connection(streams, i)
      y = h + nn.Dense(8, name=f"dense{i}")(nn.LayerNorm(name=f"norm{i}")(h))
      streams = connection.write(streams, y, coefs)
    return nn.LayerNorm(name="final")(hc.Reduce(kind="exit", connection=self.connection)(streams))


@pytest.mark.slow
@pytest.mark.parametrize("cls", [DenseFormer, MUDD])
def test_a_network_of_ones_own_passes_the_checks_of_wiring(cls):
  made = ByHand(functools.partial(cls, num_sites=4))
  report = check_model(made, normal("x", 2, 5, 8), log=None)
  assert report.ok, str(report)


class Nothing(nn.Module):
  """A branch that adds nothing."""

  @nn.compact
  def __call__(self, x, context):
    return jnp.zeros_like(x)


def test_a_state_keeps_the_streams_dtype_through_a_block_in_half_precision():
  streams = np.zeros((2, 5, 4, 8), np.float32)
  streams[..., 0, :] = normal("x", 2, 5, 8)
  fields = {"norm": functools.partial(Norm, dtype=jnp.bfloat16), "dtype": jnp.bfloat16}
  dense = functools.partial(DenseFormer, num_sites=3)
  block = WholeBlock(Nothing, Nothing, connection=dense, **fields)
  out, _ = block.init_with_output(KEY, streams, 0, TokenContext(np.zeros((1, 5), np.int32)))
  np.testing.assert_array_equal(out[..., 1, :], streams[..., 0, :])


@pytest.mark.slow
@pytest.mark.parametrize("cls", [DenseFormer, MUDD])
def test_as_its_own_residual_network_a_block_makes_the_next_state(cls):
  made, plain = model(cls), tiny.model(connection=hc.Residual, num_layers=3)
  params = tiny.params(plain)
  with hc.plain_residual():
    found = jit(lambda p: made.apply({"params": p}, tiny.TOKENS))(params)
  want = jit(lambda p: plain.apply({"params": p}, tiny.TOKENS))(params)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"block": "sequential"}, "the branch of DenseFormer is a whole block, .* set block='whole'"),
    ({"block": "parallel"}, "set block='whole'"),
    ({"norm_position": "post"}, "leave norm_position at 'pre'"),
    ({"expand": "copy"}, "expand='copy' does not go with DenseFormer, whose slots are empty"),
    ({"reduce": "sum"}, "reduce='sum' does not go with DenseFormer, which has 'exit'"),
    ({"connection": {"num_streams": 3}}, "at num_sites=3: .* or set it to 4"),
    ({"connection": {"fractions": 2}}, "has one fraction"),
    ({"connection": {"padded": False}}, "scan=True needs .* set scan=False, or padded=True"),
    ({"connection": {"num_sites": 6}}, "num_sites=6, but this model has num_sites=3"),
    ({"layers": ((1, hc.Residual), (2, None))}, "DenseFormer have different roles"),
  ],
)
def test_a_model_refuses_what_does_not_fit(fields, words):
  with pytest.raises(ValueError, match=words):
    model(**fields).check()


def test_outside_of_a_model_it_says_what_it_needs():
  streams = normal("streams", 1, 5, 5, 8)
  with pytest.raises(ValueError, match=r"num_sites=None .* give it"):
    DenseFormer(num_streams=5).init(KEY, streams, 0)
  loop = DenseFormer(num_sites=4, padded=False)
  with pytest.raises(ValueError, match=r"the number of the site is traced, .* set scan=False"):
    jax.eval_shape(lambda index: loop.init(KEY, streams, index), jnp.int32(1))
  with pytest.raises(ValueError, match="reduce='exit' does not go with HyperConnection"):
    tiny.model(reduce="exit").check()
  with pytest.raises(ValueError, match='reduce="exit" is one more read of a connection; give it'):
    hc.Reduce(kind="exit").init(KEY, streams)
  layer = hc.models.TransformerLayer(2, 16, DenseFormer(num_sites=4))
  with pytest.raises(ValueError, match="branch of DenseFormer is a whole block"):
    jax.eval_shape(lambda: layer.init(KEY, streams, 0))


def test_the_table_gives_it_a_name_and_configs_build_it():
  before = dict(hc.CONNECTIONS)
  fields = {"d_model": 16, "num_heads": 2, "num_layers": 3, "block": "whole"}
  try:
    from hc_jax.connections.contrib import table

    importlib.reload(table)  # another test may have imported it
    for name, cls in table.DENSE.items():
      connection = {"name": name, "padded": True}
      made = hc.models.make_model({**fields, "connection": connection}, vocab_size=7)
      assert load_sweep(str(FAMILY)).arms[name]["model.block"] == "whole"
      assert made.connections()[0] == cls(num_sites=3, partitioned=True).clone(parent=None)
  finally:
    hc.CONNECTIONS.clear()
    hc.CONNECTIONS.update(before)
