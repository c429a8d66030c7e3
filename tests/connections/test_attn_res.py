"""Attention residuals: slots that follow the depth, reads of what is filled, writes into one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.analysis import collect_sites, measures
from hc_jax.testing import check_model
from hc_jax.testing.compiled import jit, normal
from tests.models import tiny

KEY = jax.random.key(0)


@pytest.mark.parametrize("sites, block", [(7, 3), (6, 3), (5, 1), (1, 4)])
def test_sources_and_slots_are_those_of_the_bank_of_blocks(sites, block):
  """The bookkeeping of K3: a bank of finished blocks and a sum so far, attended to in front."""
  module = hc.AttentionResiduals(num_sites=sites, block_sites=block)
  slots, start = (
    module.num_streams,
    {"depth_query": np.zeros((1, 8), np.float32), "norm_scale": np.ones(8, np.float32)},
  )
  assert slots == -(-sites // block) + 1
  streams = normal("streams", 3, slots, 8)
  run = jit(lambda index: module.apply({"params": start}, streams, index))
  bank, so_far = [], {0}  # the sum so far is a set of sources, 0 for the embedding
  held = [{0}, *(set() for _ in range(slots - 1))]
  for index in range(sites):
    h, coefs = run(index)
    seen = [held[j] for j in np.flatnonzero(np.asarray(coefs.read)[0, 0])]
    assert seen == [*bank, so_far]
    uniform = 1 / len(seen)
    np.testing.assert_allclose(coefs.read[..., : len(seen)], uniform, rtol=1e-6)
    np.testing.assert_allclose(h, streams[:, : len(seen)].mean(1), rtol=1e-5, atol=1e-6)
    if index % block == 0:
      bank, so_far = [*bank, so_far], set()
    so_far = so_far | {index + 1}
    np.testing.assert_array_equal(coefs.write, np.eye(slots)[:, [int(coefs.slot)]])
    held[int(coefs.slot)] |= {index + 1}
    assert held[int(coefs.slot)] == so_far and coefs.mix is None
  assert all(held)


def test_counts_are_those_of_the_paper():
  for views, count in ((1, 2 * 768), (3, 4 * 768)):
    assert hc.AttentionResiduals(num_views=views).num_params(768) == count
  model = hc.models.TransformerLM(
    vocab_size=7, d_model=768, num_layers=12, num_heads=12, connection=hc.AttentionResiduals
  )
  params = jax.eval_shape(model.init, KEY, jnp.zeros((1, 2), jnp.int32))["params"]
  assert hc.param_count(params).connection == 24 * 1536 + 1536
  decays = dict(hc.params.named_leaves(hc.decay_mask(params, default="error")))
  assert not any(value for name, value in decays.items() if hc.params.is_connection(name))


@pytest.mark.parametrize("sites, block", [(5, 1), (7, 3)])
def test_delta_reads_the_state_and_a_choice_of_its_finished_changes(sites, block):
  module = hc.DeltaAttentionResiduals(num_sites=sites, block_sites=block)
  assert module.num_params(768) == 2 * 768 + 1
  streams = normal("streams", 3, module.num_streams, 8)
  start = hc.init_site(module, KEY, 8, 0)
  assert {k: (a.shape, float(a.sum())) for k, a in start.items()} == {
    "depth_query": ((1, 8), 0),
    "norm_scale": ((8,), 8),
    "depth_gate": ((1,), 0),
  }
  run = jit(lambda gate, index: hc.site_maps(module, {**start, "depth_gate": gate}, streams, index))
  for index in range(sites):
    filled, finished = 1 + -(-index // block), 1 + index // block
    state = (np.arange(module.num_streams) < filled).astype(np.float32)
    np.testing.assert_array_equal(run(np.float32([0]), index).read[0, 0], state)
    choice = (np.arange(module.num_streams) < finished) / finished * (index > 0)
    found = run(np.float32([0.6]), index)
    np.testing.assert_allclose(found.read[0, 0], state + 0.6 * choice, rtol=1e-6)
    assert int(found.slot) == index // block + 1 and found.mix is None


def test_the_end_is_one_more_read():
  streams, query = normal("streams", 5, 3, 8), normal("query", 8)
  reduce = hc.Reduce(kind="depth")
  start = reduce.init(KEY, streams)["params"]
  assert {k: v.shape for k, v in start.items()} == {"depth_query": (8,), "scale": (8,)}
  np.testing.assert_allclose(reduce.apply({"params": start}, streams), streams.mean(1), atol=1e-6)
  module = hc.AttentionResiduals(num_sites=4, block_sites=2)
  params = {"depth_query": query[None], "norm_scale": 1 + normal("scale", 8)}
  (h, _) = module.apply({"params": params}, streams, 3)  # sees all slots too
  end = {"depth_query": query, "scale": params["norm_scale"]}
  found = reduce.apply({"params": end}, streams)
  np.testing.assert_allclose(found, h, rtol=1e-5, atol=1e-6)
  jax.jvp(lambda x: reduce.apply({"params": end}, x), (streams,), (streams,))


def test_streams_begin_in_one_slot():
  x = normal("x", 2, 8)
  found = hc.Expand(3, kind="first").apply({}, x.astype(jnp.bfloat16))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found[:, 0], x.astype(jnp.bfloat16))
  assert not np.any(found[:, 1:])


@pytest.mark.parametrize(
  "cls, block",
  [(hc.AttentionResiduals, 1), (hc.AttentionResiduals, 3), (hc.DeltaAttentionResiduals, 3)],
)
@pytest.mark.slow
def test_the_unfolded_matrix_rebuilds_every_input(cls, block):
  model = tiny.model(connection=functools.partial(cls, block_sites=block))
  sites = list(collect_sites(model, tiny.params(model), tiny.TOKENS).values())
  assert [int(site.coefs.slot) for site in sites] == [i // block + 1 for i in range(4)]
  few = measures.some_tokens(sites, 5)
  matrix, _, away = measures.unfolding(few)
  assert away < 1e-5
  assert np.all(matrix[..., np.triu_indices(5, 1)[0], np.triu_indices(5, 1)[1]] == 0)
  measured = measures.measure(few)
  np.testing.assert_allclose(measured[-1]["effective_write"], 1)


class ByHand(nn.Module):
  """Four sites of one's own; `connection` makes them."""

  connection: functools.partial
  ends: tuple[str, str] = ("first", "depth")

  @nn.compact
  def __call__(self, x):
    n = self.connection(parent=None).num_streams
    streams = hc.Expand(n, kind=self.ends[0])(x)
    for i in range(4):
      connection = self.connection(name=f"site{i}")
      h, coefs = connection(streams, i)
      h = nn.LayerNorm(name=f"norm{i}")(h)
      streams = connection.write(streams, nn.Dense(8, name=f"dense{i}")(h), coefs)
    return nn.LayerNorm(name="final")(hc.Reduce(kind=self.ends[1])(streams))


@pytest.mark.slow
def test_a_network_of_ones_own_passes_the_checks_of_wiring():
  fields, x = {"num_sites": 4, "block_sites": 3}, normal("x", 2, 5, 8)
  connection = functools.partial(hc.AttentionResiduals, **fields)
  delta = functools.partial(hc.DeltaAttentionResiduals, **fields)
  for made, end in ((connection, "depth"), (delta, "sum")):
    report = check_model(ByHand(made, ("first", end)), x, log=None)
    assert report.ok, str(report)
  copies = check_model(ByHand(connection, ("copy", "depth")), x, log=None)
  assert "not an embedding and empty slots" in str(copies)


@pytest.mark.slow
def test_as_its_own_residual_network_neither_end_is_there():
  connection = functools.partial(hc.AttentionResiduals, block_sites=3)
  model, plain = tiny.model(connection=connection), tiny.model(connection=hc.Residual)
  params = tiny.params(plain)
  with hc.plain_residual():
    found = jit(lambda p: model.apply({"params": p}, tiny.TOKENS))(params)
  want = jit(lambda p: plain.apply({"params": p}, tiny.TOKENS))(params)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


ATTN, DELTA, HC = hc.AttentionResiduals, hc.DeltaAttentionResiduals, hc.HyperConnection


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"connection": functools.partial(ATTN, num_streams=4)}, "it to 5"),
    ({"connection": functools.partial(ATTN, block_sites=3, num_streams=4)}, "2 blocks .* to 3"),
    ({"connection": functools.partial(ATTN, block_sites=0)}, "block_sites=0 must be at least 1"),
    ({"connection": functools.partial(ATTN, block_sites=1.5)}, "must be a whole number"),
    ({"connection": functools.partial(ATTN, fractions=2)}, "has one fraction"),
    ({"connection": ATTN, "expand": "copy"}, "expand='copy' does not go with AttentionResiduals"),
    ({"connection": ATTN, "reduce": "sum"}, "which has 'depth'; leave reduce unset"),
    ({"connection": ATTN, "reduce": "read"}, "AttentionResiduals does not; leave reduce unset"),
    ({"connection": DELTA, "reduce": "depth"}, "DeltaAttentionResiduals, which has 'sum'"),
    ({"connection": HC, "reduce": "depth"}, "reduce='depth' does not go with HyperConnection"),
    (
      {"layers": ((1, HC), (1, ATTN)), "expand": None},
      "AttentionResiduals have different roles",
    ),
    ({"layers": ((1, ATTN), (1, HC)), "num_layers": None}, "leave layers unset"),
  ],
)
def test_a_model_refuses_what_does_not_fit(fields, words):
  with pytest.raises(ValueError, match=words):
    tiny.model(**fields).check()


def test_slots_follow_the_depth_of_any_model():
  for block, sites in (("sequential", 6), ("parallel", 3)):
    model = tiny.model(connection=ATTN, num_layers=3, block=block)
    assert model.connections()[0].num_streams == sites + 1
  instance = tiny.model(connection=hc.AttentionResiduals(block_sites=2))
  assert instance.connections()[0].num_streams == 3


def test_outside_of_a_model_the_depth_must_be_said():
  streams = normal("streams", 3, 5, 8)
  for module in (hc.AttentionResiduals(), hc.AttentionResiduals(num_streams=5)):
    for use in (
      lambda module: module.init(KEY, streams, 0),
      lambda module: hc.init_site(module, KEY, 8, 0),
      lambda module: hc.site_maps(module, {}, streams, 0),
    ):
      with pytest.raises(ValueError, match=r"num_sites=None .* give it: .*num_sites=8"):
        use(module)
  module = hc.AttentionResiduals(num_sites=4)
  with pytest.raises(ValueError, match="num_sites=4, but a site has index=4; count sites from 0"):
    module.init(KEY, streams, 4)
  with pytest.raises(ValueError, match=r'hc_jax.Expand\(5, kind="first"\)\(x\)'):
    module.init(KEY, streams[:, :4], 0)


def test_a_depth_of_another_network_is_refused():
  for connection in (hc.AttentionResiduals(num_sites=2, parent=None), hc.X0Lambdas(num_sites=2)):
    with pytest.raises(
      ValueError, match="num_sites=2, but this model has num_sites=4; leave num_s"
    ):
      tiny.model(connection=connection, num_layers=2).check()
  module = hc.AttentionResiduals(num_sites=2)
  with pytest.raises(ValueError, match="num_sites=2, but a site has index=9"):
    module.init(jax.random.key(0), np.zeros((1, 3, 8), np.float32), jnp.int32(9))


def test_norms_and_beginnings_that_break_its_slots_are_refused():
  for name in ("attn_res", "x0_lambdas", "altup_simplified"):
    model = tiny.model(connection=hc.make_connection(name), norm_position="post")
    with pytest.raises(ValueError, match="some must keep earlier states"):
      model.check()
  with pytest.raises(ValueError, match="keeps the embedding in stream 1"):
    tiny.model(connection=hc.X0Lambdas, expand="first").check()


def test_the_end_norms_as_its_sites_do():
  model = tiny.model(connection=functools.partial(hc.AttentionResiduals, norm_eps=0.5))
  assert model.bind({}).reduce_streams.norm_eps == 0.5
