"""Gated residuals: a read by channel in the place of norms, rebuilt and never stored."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import ops
from hc_jax.analysis import collect_sites, measures
from hc_jax.plan.kept import _residuals
from hc_jax.testing.compiled import jit, normal
from tests.models import tiny

KEY = jax.random.key(0)
STREAMS, Y = normal("streams", 2, 3, 4, 16), normal("y", 2, 3, 16)


def kicked(connection=None, width=16):
  connection = connection or hc.GatedResidual()
  params = hc.init_site(connection, KEY, width, 0)
  return {name: leaf + 0.3 * normal(name, *leaf.shape) for name, leaf in params.items()}


@pytest.mark.parametrize(
  "d, rank, site, end",
  [
    (768, 96, 605_184, 592_896),
    (2560, 320, 6_604_800, 6_563_840),
  ],
)
def test_counts_are_those_of_the_report(d, rank, site, end):
  for connection in (hc.GatedResidual(), hc.GatedResidual(rank=rank)):
    assert connection.num_params(d) == site
    assert connection.exit().num_params(d) == end


def test_a_site_starts_with_unit_gains_and_open_gates():
  params = hc.init_site(hc.GatedResidual(), KEY, 16, 0)
  assert {name: leaf.shape for name, leaf in params.items()} == {
    "down_kernel": (4, 16, 2),
    "up_kernel": (2, 1, 4, 16),
    "write_kernel": (4, 16, 4),
    "norm_gamma": (4, 16),
  }
  np.testing.assert_array_equal(params["norm_gamma"], 0)
  zeros = jax.tree.map(jnp.zeros_like, params)
  coefs = hc.site_maps(hc.GatedResidual(), zeros, STREAMS, 0)
  np.testing.assert_array_equal(coefs.write, 1)
  rms = np.sqrt(np.mean(np.square(STREAMS), axis=-1, keepdims=True))
  want = np.mean(STREAMS / rms, axis=-2) / 2
  np.testing.assert_allclose(hc.read(STREAMS, coefs), want, atol=1e-6)


def test_a_site_outside_of_flax_is_bitwise_the_module():
  connection, params = hc.GatedResidual(), kicked()
  run = jit(lambda p, x: connection.apply({"params": p}, x, 0))
  plain = jit(lambda p, x: (lambda c: (hc.read(x, c), c))(hc.site_maps(connection, p, x, 0)))
  for a, b in zip(*(jax.tree.leaves(f(params, STREAMS)) for f in (run, plain)), strict=True):
    np.testing.assert_array_equal(a, b)


def test_read_is_the_mean_over_channels_of_weights_that_make_the_input():
  coefs = hc.site_maps(hc.GatedResidual(), kicked(), STREAMS, 0)
  weights = ops.channel_weights(STREAMS, coefs.gates)
  assert weights.shape == (2, 3, 1, 4, 16)
  np.testing.assert_allclose(coefs.read, weights.mean(-1), rtol=1e-5)
  h = jnp.sum(weights[..., 0, :, :] * STREAMS, axis=-2)
  np.testing.assert_allclose(hc.read(STREAMS, coefs), h, rtol=1e-5, atol=1e-6)
  assert float(jnp.std(weights, axis=-1).min()) > 1e-3


@pytest.mark.parametrize("norm", ops.NORMS)
@pytest.mark.parametrize("derivatives", ops.DERIVATIVES)
def test_a_projection_of_all_streams_norms_each_by_itself(norm, derivatives):
  kernel, scale, bias = normal("k", 4, 16, 3), normal("s", 4, 16), normal("b", 4, 16)
  found = ops.project(
    STREAMS, kernel, norm=norm, scale=scale, bias=bias, norm_over="stream", derivatives=derivatives
  )
  x = STREAMS - STREAMS.mean(-1, keepdims=True) * (norm == "layernorm")
  x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5) * scale + bias
  np.testing.assert_allclose(found, np.einsum("...nw,nwk->...k", x, kernel), rtol=2e-5, atol=1e-5)


def test_one_stream_is_its_own_norm():
  kernel = normal("k", 16, 3)
  both = [ops.project(STREAMS, kernel, norm_over=over) for over in ("all", "stream")]
  np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("remat", ["none", "branches", "full"])
def test_nothing_as_wide_as_all_streams_is_kept_in_float32(remat):
  model = tiny.model(connection=hc.GatedResidual, remat=remat, dtype=jnp.bfloat16)
  params = jax.eval_shape(lambda: nn.unbox(model.init(KEY, tiny.TOKENS)))["params"]

  def loss(params, tokens):
    return jnp.sum(model.apply({"params": params}, tokens))

  kept = _residuals(loss, params, jax.ShapeDtypeStruct((3, 5), jnp.int32))
  wide = [(s, str(dtype)) for s, dtype in kept if s[-2:] == (4, 16) and 5 in s]
  assert wide and all(dtype == "bfloat16" for _, dtype in wide)


def test_a_model_has_neither_pre_norms_nor_a_final_norm():
  model = tiny.model(connection=hc.GatedResidual, norm_params=True)
  shapes = nn.unbox(tiny.shapes(model))
  assert set(shapes) == {"token_embed", "stack", "reduce_streams"}
  assert {"attn_norm", "ffn_norm"}.isdisjoint(shapes["stack"]["layers"])
  assert set(shapes["reduce_streams"]) == {"down_kernel", "up_kernel", "norm_gamma"}
  count = 4 * hc.GatedResidual().num_params(16) + hc.GatedResidual().exit().num_params(16)
  assert hc.param_count(shapes).connection == count
  mask = hc.decay_mask(shapes)["reduce_streams"]
  assert mask == {"down_kernel": True, "up_kernel": True, "norm_gamma": False}
  plain = nn.unbox(tiny.shapes(hc.as_residual(model)))
  assert {"attn_norm", "ffn_norm"} <= set(plain["stack"]["layers"]) and "final_norm" in plain


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_inputs_are_rebuilt_channel_by_channel(scan):
  model = tiny.model(connection=hc.GatedResidual, scan=scan)
  params = tiny.params(model)
  sites = list(collect_sites(model, params, tiny.TOKENS).values())
  few = measures.some_tokens(sites, 5)
  _, _, error = measures.unfolding(few)
  assert error < 1e-5
  by_mean = [dataclasses.replace(site, coefs=site.coefs.replace(gates=None)) for site in few]
  assert measures.unfolding(by_mean)[2] > 0.05  # the mean over channels is not the read


def test_wrap_layer_and_end_by_hand_are_the_equations():
  class ByHand(nn.Module):
    @nn.compact
    def __call__(self, x):
      streams = hc.wrap(nn.Dense(16, use_bias=False), hc.GatedResidual, name="site")(
        hc.expand(x, 4), 0
      )
      return hc.Reduce(kind="gated", connection=hc.GatedResidual, name="end")(streams)

  out, variables = ByHand().init_with_output(KEY, Y)
  params = variables["params"]
  connection, streams = hc.GatedResidual(), hc.expand(Y, 4)
  coefs = hc.site_maps(connection, params["site"]["connection"], streams, 0)
  dense = params["Dense_0"]["kernel"]
  streams = hc.write(streams, hc.read(streams, coefs) @ dense, coefs)
  last = connection.exit()
  want = hc.read(streams, hc.site_maps(last, params["end"], streams, 1))
  np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
  layer = hc.models.TransformerLayer(2, 8, hc.GatedResidual)
  shapes = jax.eval_shape(layer.init, KEY, STREAMS, 0)["params"]
  assert set(shapes) == {"attn", "ffn", "attn_connection", "ffn_connection"}


@pytest.mark.parametrize("first, last", [(hc.GatedResidual, hc.MHC), (hc.MHC, hc.GatedResidual)])
def test_segments_take_their_own_norms_and_the_end_of_the_last(first, last):
  model = tiny.model(layers=((1, first), (1, last)), num_layers=None, norm_params=True)
  shapes = nn.unbox(tiny.shapes(model))
  assert ("final_norm" in shapes) == (last is hc.MHC)
  for segment, kind in enumerate((first, last)):
    has_norm = "attn_norm" in shapes["stack"][f"segment_{segment}"]["layers"]
    assert has_norm == (kind is hc.MHC)


def test_the_end_takes_the_eps_of_the_final_norm():
  model = tiny.model(connection=hc.GatedResidual, num_layers=1)
  params = tiny.params(model)

  def end(eps):
    return model.clone(final_norm_eps=eps).bind({"params": params}).reduce_streams(STREAMS)

  np.testing.assert_array_equal(end(None), end(1e-6))
  assert float(jnp.max(jnp.abs(end(1.0) - end(None)))) > 1e-3


GATED = functools.partial(tiny.model, connection=hc.GatedResidual)


@pytest.mark.parametrize(
  "run, message",
  [
    (lambda: GATED(norm_position="post").check(), "GatedResidual norms what branches read"),
    (lambda: GATED(reduce="sum").check(), "'sum' does not go with GatedResidual"),
    (lambda: GATED(reduce="read").check(), "leave reduce unset"),
    (lambda: tiny.model(reduce="gated").check(), "'gated' does not go with HyperConnection"),
    (lambda: hc.GatedResidual(rank=0).check(), "rank=0 must be at least 1"),
    (lambda: hc.GatedResidual(rank=2.0).check(), "rank=2.0 must be a whole number"),
    (lambda: hc.GatedResidual(fractions=2).check(), "fractions=2"),
    (lambda: hc.GatedResidual().init(KEY, STREAMS, 0, read=STREAMS), "carries none"),
    (lambda: hc.Reduce(kind="gated").init(KEY, STREAMS), "give it the connection of the last site"),
    (
      lambda: hc.Reduce(kind="gated", connection=hc.MHC).init(KEY, STREAMS),
      "MHC has no read of its own for the end",
    ),
    (
      lambda: hc.read(STREAMS[..., :8], hc.site_maps(hc.GatedResidual(), kicked(), STREAMS, 0)),
      "gates belong to streams",
    ),
    (lambda: ops.project(STREAMS, normal("k", 4, 16, 2), norm_over="each"), "norm_over='each'"),
  ],
)
def test_what_does_not_go_together_is_refused(run, message):
  with pytest.raises(ValueError, match=message):
    run()


def test_gates_want_streams_that_are_normed_one_by_one():
  generator = hc.GatedResidual().generate(kicked(), 0).replace(norm_over="all")
  with pytest.raises(ValueError, match="norm_over='stream'"):
    ops.coefs(STREAMS, generator)
