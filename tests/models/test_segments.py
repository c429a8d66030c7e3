"""Stacks whose layers differ: counted through, joined by a mean, of one layout with the others."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hc_jax as hc
from hc_jax.analysis import collect_coefs, token_mean
from hc_jax.models import stack_layers, unstack_layers
from hc_jax.testing.compiled import jit, normal
from tests.models import by_hand, tiny

SHC3 = functools.partial(hc.HyperConnection, num_streams=3, dynamic=False)
# Residual, then two streams, three, and two again: every way in which n can change.
LAYERS = ((1, tiny.RESIDUAL), (2, tiny.SHC2), (1, SHC3), (1, None))
FIELDS = {"layers": LAYERS, "connection": tiny.SHC2, "num_layers": None, "norm_eps": 0.1}


@functools.cache
def parameters(scan=True):
  params = tiny.params(tiny.model(**FIELDS))
  return params if scan else unstack_layers(params)


def expected():
  """By hand: where n changes, the mean of the streams is copied."""
  layers = by_hand.Layers(tiny.model(**FIELDS), parameters())
  X = layers.x[:, :, None]
  for layer, n in enumerate((1, 2, 2, 3, 2)):
    if X.shape[2] != n:
      X = np.repeat(X.mean(2, keepdims=True), n, axis=2)
    for name, branch in (("attn", layers.attn), ("ffn", layers.ffn)):
      read, mix, write = np.ones((1, 1)), np.eye(1), np.ones((1, 1))
      if n > 1:
        read, mix, write = layers.maps(layer, f"{name}_connection")
      h = layers.norm(layer, f"{name}_norm", (read @ X)[:, :, 0])
      X = mix @ X + write * branch(layer, h)[:, :, None]
  return layers.logits(X.sum(2))


@pytest.mark.parametrize("scan, remat", [(True, "branches"), (False, "none")])
def test_against_the_layers_one_by_one(scan, remat):
  run = tiny.forward(**FIELDS, scan=scan, remat=remat)
  by_hand.close(run(parameters(scan), tiny.TOKENS), expected())


def test_parameters_lie_in_segments_and_layers_keep_their_number():
  scanned, unrolled = parameters(), parameters(scan=False)
  assert sorted(scanned["stack"]) == [f"segment_{i}" for i in range(4)]
  assert [
    len(scanned["stack"][f"segment_{i}"]["layers"]["ffn"]["in_kernel"]) for i in range(4)
  ] == [
    1,
    2,
    1,
    1,
  ]
  assert [list(unrolled["stack"][f"segment_{i}"]) for i in range(4)] == [
    ["layer_0"],
    ["layer_1", "layer_2"],
    ["layer_3"],
    ["layer_4"],
  ]
  chex.assert_trees_all_equal(stack_layers(unrolled), scanned)
  shapes = nn.unbox(tiny.shapes(tiny.model(**FIELDS, scan=False)))
  chex.assert_trees_all_equal_shapes_and_dtypes(unrolled, shapes)
  state = jax.eval_shape(optax.adam(1e-3).init, scanned)
  state = jax.tree.map(lambda a: normal(str(a.shape), *a.shape).astype(a.dtype), state)
  chex.assert_trees_all_equal(stack_layers(unstack_layers(state)), state)
  # ten segments and more keep their order, and so their numbers
  many = {f"segment_{i}": {"layers": {"a": np.full((2, 1), i)}} for i in range(12)}
  assert list(unstack_layers(many)["segment_10"]) == ["layer_20", "layer_21"]


def test_one_segment_is_the_ordinary_stack():
  one = tiny.shapes(tiny.model(layers=((2, tiny.SHC2),), num_layers=None))
  chex.assert_trees_all_equal_shapes(one, tiny.shapes(tiny.model(connection=tiny.SHC2)))
  assert tiny.model(layers=LAYERS, num_layers=None).num_layers == 5
  assert tiny.model(layers=LAYERS, num_layers=5).clone(scan=False).num_layers == 5


@pytest.mark.slow
def test_sites_are_counted_through_and_nothing_is_scaled_at_init():
  """At initialisation: reads count sublayers through the network, which is the residual one."""
  mixed = {
    "layers": ((1, tiny.DHC4), (2, SHC3), (1, frac(3, 2))),
    "num_layers": None,
    "final_norm_eps": 1e-12,
  }
  model = tiny.model(**mixed)
  plain = {"connection": tiny.RESIDUAL, "num_layers": 4, "final_norm_eps": 1e-12, "scan": False}

  @jit
  def run(key):
    params = unstack_layers(nn.unbox(model.init(key, tiny.TOKENS))["params"])
    kicked = jax.tree_util.tree_map_with_path(
      lambda path, a: a if hc.params.is_connection(hc.params.path_name(path)) else 10 * a, params
    )
    layers = {k: v for segment in kicked["stack"].values() for k, v in segment.items()}
    branches = {
      name: {k: v for k, v in layer.items() if "connection" not in k}
      for name, layer in layers.items()
    }
    residual = tiny.model(**plain).apply({"params": {**kicked, "stack": branches}}, tiny.TOKENS)
    found = model.clone(scan=False).apply({"params": kicked}, tiny.TOKENS)
    reads = [
      layers[f"layer_{i}"][f"{name}_connection"]["static_read"][0]
      for i in (0, 1, 2)
      for name in ("attn", "ffn")
    ]
    return found, residual, [jnp.argmax(read) for read in reads]

  found, residual, reads = run(jax.random.key(0))
  assert np.std(residual) > 0.1
  np.testing.assert_allclose(found, residual, atol=2e-5)
  assert [int(read) for read in reads] == [0, 1, 2 % 3, 3 % 3, 4 % 3, 5 % 3]


def frac(n, m):
  return functools.partial(hc.connections.GeneralizedHyperConnection, num_streams=n, fractions=m)


@pytest.mark.parametrize("scan", [True, False])
def test_coefficients_are_collected_in_the_order_of_the_network(scan):
  model = tiny.model(**FIELDS, scan=scan)
  sites = collect_coefs(model, parameters(scan), tiny.TOKENS)
  assert list(sites) == [
    f"stack/segment_{segment}/layer_{layer}/{name}_connection"
    for layer, segment in enumerate((0, 1, 1, 2, 3))
    for name in ("attn", "ffn")
  ]
  for (site, coefs), n in zip(sites.items(), np.repeat((1, 2, 2, 3, 2), 2), strict=True):
    assert token_mean(coefs).mix.shape == (n, n), site
  layer = unstack_layers(parameters())["stack"]["segment_1"]["layer_2"]
  np.testing.assert_array_equal(
    sites["stack/segment_1/layer_2/ffn_connection"].mix, layer["ffn_connection"]["static_mix"]
  )


@pytest.mark.parametrize(
  "layers, num_layers, words",
  [
    (((1, tiny.SHC2), (2, SHC3)), 4, r"1 \+ 2 = 3 layers, but num_layers=4; set num_layers=3"),
    (((0, tiny.SHC2),), None, "a segment of 0 layers"),
    ((tiny.SHC2,), None, r"write \(count, connection\)"),
    ((), None, "num_layers=None must be a whole number"),
    (((1, frac(3, 3)), (1, tiny.SHC2)), None, r"d_model=16 .* fractions=3: 16 / 3 = 5\.33"),
  ],
)
def test_what_does_not_add_up_is_refused(layers, num_layers, words):
  with pytest.raises(ValueError, match=words):
    tiny.model(layers=layers, num_layers=num_layers).check()


def test_a_block_of_another_number_of_streams_is_refused():
  """Streams change between segments, and nowhere else."""
  model = tiny.model(connection=SHC3)
  context = hc.models.TokenContext(positions=np.zeros((1, 8), np.int32))
  bound = model.bind({"params": tiny.params(model)})
  with pytest.raises(
    ValueError, match=r"num_streams=3 and takes streams \[\.\.\., 3, w\], but got"
  ):
    bound.stack(hc.expand(normal("x", 2, 8, 16), 2), context)


def test_sqrt_n_follows_the_streams_of_each_segment():
  layers = ((1, hc.Residual), (2, None), (1, functools.partial(hc.HyperConnection, num_streams=9)))
  model = tiny.model(num_layers=4, layers=layers, output_init_scale="sqrt_n")
  for (_, connection), scale in zip(model._segments(), (1.0, 2**0.5, 3.0), strict=True):
    branches = model._block(None, connection).keywords
    for branch in ("attention", "feed_forward"):
      assert branches[branch].keywords["output_init_scale"] == scale
