"""Tests of the paper's parameter counts and of weight decay; no weight is allocated."""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hc_jax as hc
from hc_jax import axes
from hc_jax.config import load_config
from tests.models import tiny

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@functools.cache
def count(name, *overrides):
  config = load_config(
    str(CONFIGS / f"{name}.py"), [f"--config.model.{override}" for override in overrides]
  )
  model = hc.models.make_model(config.model, vocab_size=257)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
  return hc.param_count(params)


OLMO_1B, OLMO_7B = 1_176_764_416, 6_888_095_744
STATIC = ("connection.dynamic=false",)
TWO = ("connection.num_streams=2",)

# Table 7 of 2409.19606: parameters of the connections and in total, in billions; change in percent.
# As printed, except for three cells of the first column, which test_table_7_slips has.
TABLE_7 = [
  ("olmo_1b", STATIC + TWO, OLMO_1B, 256, ("0.0000003", "1.17676467", "0.00002")),
  ("olmo_1b", STATIC, OLMO_1B, 768, ("0.0000008", "1.17676518", "0.00007")),
  ("olmo_1b", TWO, OLMO_1B, 262_464, ("0.0002625", "1.17702688", "0.02230")),
  ("olmo_1b", (), OLMO_1B, 394_048, ("0.0003940", "1.17715846", "0.03349")),
  ("olmo_7b", (), OLMO_7B, 1_574_528, ("0.0015745", "6.88967027", "0.02286")),
]


@pytest.mark.parametrize("name, overrides, baseline, connection, printed", TABLE_7)
def test_table_7(name, overrides, baseline, connection, printed):
  found = count(name, *overrides)
  assert (found.total - found.connection, found.connection) == (baseline, connection)
  cells = (
    f"{connection / 1e9:.7f}",
    f"{found.total / 1e9:.8f}",
    f"{100 * connection / baseline:.5f}",
  )
  assert cells == printed


@pytest.mark.parametrize(
  "name, baseline, printed",
  [("olmo_1b", OLMO_1B, "1.17676442"), ("olmo_7b", OLMO_7B, "6.88809574")],
)
def test_table_7_baselines(name, baseline, printed):
  plain = count(name, "connection.name=residual")
  assert (plain.total, plain.connection) == (baseline, 0)
  assert f"{baseline / 1e9:.8f}" == printed


def test_table_7_slips():
  """Three cells of the first column do not equal the difference of the totals next to them."""
  # SHC: ten times too large.
  for overrides, printed in ((STATIC + TWO, 0.0000026), (STATIC, 0.0000077)):
    found = count("olmo_1b", *overrides).connection
    np.testing.assert_allclose(10 * found / 1e9, printed, atol=0.5e-7)
  # OLMo-7B: the d weights of the dynamic write are missing at every site.
  assert f"{(count('olmo_7b').connection - 64 * 4096) / 1e9:.7f}" == "0.0013124"


def test_table_7_olmoe():
  """OLMoE has the connections of OLMo-1B, d = 2048 at 32 sites; norm weights are not counted."""
  plain, dhc = 6.91909427, count("olmo_1b").connection
  assert f"{plain + dhc / 1e9:.8f}" == "6.91948832"
  assert f"{100 * dhc / (plain * 1e9):.5f}" == "0.00570"
  affine = count("olmo_1b", "norm=rmsnorm", "norm_params=true").connection
  assert affine == 459_584 == dhc + 32 * 2048
  assert f"{plain + affine / 1e9:.8f}" != "6.91948832"


@pytest.mark.parametrize(
  "name, about", [("small", 125e6), ("base", 355e6), ("large", 1e9), ("quickstart", 0.8e6)]
)
def test_sizes_are_as_announced(name, about):
  found = count(name)
  np.testing.assert_allclose(found.total, about, rtol=0.06)
  assert 0 < found.connection < 0.02 * found.total


def test_embeddings_are_counted_with_positions_and_a_tied_output_once():
  plain = count("small")
  assert plain.embedding == 768 * (50257 + 2048)
  untied = count("small", "tie_embeddings=false")
  assert untied.total == plain.total + 768 * 50257
  assert untied.embedding == plain.embedding


class Mine(nn.Module):
  """A user's network with connections named by Flax, and one named by hand."""

  @nn.compact
  def __call__(self, x):
    streams = hc.expand(nn.Dense(8)(x), 2)
    for connection in (
      hc.HyperConnection(num_streams=2),
      hc.HyperConnection(num_streams=2, dynamic=False),
      hc.HyperConnection(num_streams=2, dynamic=False, name="my_connection"),
    ):
      h, coefs = connection(streams, 0)
      streams = connection.write(streams, nn.Dense(8)(h), coefs)
    return hc.reduce(streams)


def test_connections_of_a_users_own_module_are_counted():
  variables = jax.eval_shape(Mine().init, jax.random.key(0), np.ones((3, 8), np.float32))
  assert {"HyperConnection_0", "HyperConnection_1", "my_connection"} < set(variables["params"])
  found = hc.param_count(variables["params"])
  static, dynamic = 2 * 4, 8 * 4 + 2
  assert found.connection == 3 * static + dynamic
  assert found.total == found.connection + 4 * (8 * 8 + 8)
  assert found.embedding == 0


# Every parameter name, and whether it decays.
DECAYS = {
  "embedding": True,
  "query_kernel": True,
  "key_kernel": True,
  "value_kernel": True,
  "out_kernel": True,
  "in_kernel": True,
  "gate_kernel": True,
  "output_kernel": True,
  "dynamic_kernel": True,
  "dynamic_scale": False,
  "static_read": False,
  "static_mix": False,
  "static_write": False,
  "norm_scale": False,
  "norm_bias": False,
  "scale": False,
  "bias": False,
}


@pytest.mark.parametrize("scan", [False, True])
def test_what_decays(scan):
  model = tiny.model(
    scan=scan, norm_params=True, qk_norm=True, activation="swiglu", tie_embeddings=False
  )
  model = model.clone(positions="learned")
  params = tiny.shapes(model)
  mask = hc.decay_mask(params)
  jax.tree.map(lambda a, b: None, mask, nn.unbox(params))  # one bool for every leaf
  found = {}
  for path, decays in hc.params.named_leaves(mask):
    assert isinstance(decays, bool), path
    found.setdefault(path.rsplit("/", 1)[-1], set()).add(decays)
  assert found == {name: {decays} for name, decays in DECAYS.items()}


def masked(params, **options):
  return dict(hc.params.named_leaves(hc.decay_mask(params, **options)))


# Names in ordinary models, which need not be renamed.
ORDINARY = {
  "cls": ((1, 1, 8), True),
  "pos_embed": ((1, 6, 8), True),
  "norm/gamma": ((8,), False),
  "norm/beta": ((8,), False),
  "act/negative_slope": ((), False),
  "attn/lora_a": ((8, 2), True),
  "attn/lora_b": ((2, 8), True),
  "layer_scale": ((8,), False),
  "static_": ((2, 2), False),
  "dense/kernel": ((8,), True),
  "dense/kernel_bias": ((8, 8), False),
}


def ordinary():
  params = {}
  for path, (shape, _) in ORDINARY.items():
    *parents, name = path.split("/")
    node = params
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = np.ones(shape)
  return params


def test_ordinary_models_need_no_other_names():
  assert masked(ordinary()) == {path: decays for path, (_, decays) in ORDINARY.items()}
  # only the last part of a path decides
  nested = {"static_": {"kernel": 1}, "kernel": {"bias": 1}}
  assert masked(nested) == {"static_/kernel": True, "kernel/bias": False}


def test_rules_come_first_and_the_default_last():
  rules = [
    (r"^cls$|pos_embed", False),
    (r"^norm/", True),
    (r"gamma", False),
    (r"dense/kernel$", False),
  ]
  changed = {"cls": False, "pos_embed": False, "dense/kernel": False}
  changed |= {"norm/gamma": True, "norm/beta": True}
  found = masked(ordinary(), rules=rules)
  assert found == {path: changed.get(path, decays) for path, (_, decays) in ORDINARY.items()}
  unknown = {"cls", "pos_embed", "act/negative_slope", "attn/lora_a", "attn/lora_b"}
  for default in (True, False):
    found = masked(ordinary(), default=default)
    assert {path for path in found if found[path] == default} >= unknown
    assert found["dense/kernel"] and not found["norm/gamma"]


def test_a_default_of_error_names_the_parameter_and_the_rule():
  params = {"a": {"gain": np.ones(2)}}
  with pytest.raises(
    hc.UserError, match=r"'a/gain' is unknown to weight decay; .*rules=\(\('a/gain'"
  ):
    hc.decay_mask(params, default="error")
  assert masked(params, default="error", rules=[("gain", False)]) == {"a/gain": False}
  with pytest.raises(ValueError, match="default='ndim' is unknown"):
    hc.decay_mask(params, default="ndim")


def test_an_axis_of_scanned_layers_of_ours_does_not_count():
  shape = lambda *axes: jax.ShapeDtypeStruct(axes, jnp.float32)  # noqa: E731
  layers = {"fade_connection": {"fade": shape(3, 2), "table": shape(3, 2, 2)}}
  want = {"fade_connection/fade": False, "fade_connection/table": True}
  for prefix, params in (
    ("stack/layers", {"stack": {"layers": layers}}),
    ("stack/segment_0/layers", {"stack": {"segment_0": {"layers": layers}}}),
  ):
    assert masked(params) == {f"{prefix}/{path}": decays for path, decays in want.items()}


def test_nnx_states_have_the_names_of_their_arrays():
  class Model(nnx.Module):
    def __init__(self):
      self.blocks = nnx.List([nnx.Linear(2, 2, rngs=nnx.Rngs(0))])
      self.cls = nnx.Param(jnp.zeros((1, 1, 2)))
      self.HyperConnection_0 = nnx.Dict(static_mix=nnx.Param(jnp.eye(2)))

  model = Model()
  state = nnx.state(model, nnx.Param)
  want = {"blocks/0/bias": False, "blocks/0/kernel": True, "cls": True}
  want["HyperConnection_0/static_mix"] = False
  assert masked(state) == masked(nnx.to_pure_dict(state)) == want
  assert jax.tree.structure(hc.decay_mask(state)) == jax.tree.structure(state)
  nnx.Optimizer(model, optax.adamw(1e-3, mask=hc.decay_mask), wrt=nnx.Param)
  assert hc.param_count(state).connection == 4


def test_parameters_of_the_other_orientation_are_refused():
  shapes = axes.unboxed(tiny.shapes(tiny.model(connection=tiny.SHC2)))
  hc.params.check_shapes(shapes, shapes)
  path = ("stack", "layers", "attn_connection", "static_read")

  def with_shape(shape):
    changed = jax.tree.map(lambda leaf: leaf, shapes)
    node = changed
    for part in path[:-1]:
      node = node[part]
    node[path[-1]] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return changed

  name = "/".join(path)
  with pytest.raises(
    ValueError, match=rf"{name} is \(2, 2, 1\), and \(2, 1, 2\) is expected: .* other orientation"
  ):
    hc.params.check_shapes(with_shape((2, 2, 1)), shapes)
  with pytest.raises(ValueError, match=rf"{name} is \(2, 1, 4\), .* another size of model"):
    hc.params.check_shapes(with_shape((2, 1, 4)), shapes)
  # The kernel of a branch has no orientation that could be checked.
  kernels = [{"ffn": {"in_kernel": np.zeros(shape)}} for shape in ((3, 2), (2, 3))]
  with pytest.raises(ValueError, match=r"ffn/in_kernel is \(3, 2\), .* another size of model"):
    hc.params.check_shapes(*kernels)


def test_parameters_of_another_model_are_refused():
  shapes = axes.unboxed(tiny.shapes(tiny.model()))
  plain = axes.unboxed(tiny.shapes(tiny.model(connection=tiny.RESIDUAL)))
  loop = axes.unboxed(tiny.shapes(tiny.model(scan=False)))
  with pytest.raises(ValueError, match=r"10 missing, such as stack/layers/attn_connection/dynamic"):
    hc.params.check_shapes(plain, shapes)
  with pytest.raises(ValueError, match=r"10 that it does not have, such as stack/layers/attn_conn"):
    hc.params.check_shapes(shapes, plain)
  with pytest.raises(ValueError, match=r"hc_jax\.models\.stack_layers converts them"):
    hc.params.check_shapes(loop, shapes)
  with pytest.raises(ValueError, match=r"hc_jax\.models\.unstack_layers converts them"):
    hc.params.check_shapes(shapes, loop)


@pytest.mark.parametrize(
  "path, wanted",
  [
    ("Residual_0/Dense_0/kernel", False),
    ("Residual_0/kernel", False),
    ("Expand_0/Dense_0/kernel", False),
    ("Expand_0/kernel", False),
    ("Reduce_0/Dense_0/kernel", False),
    ("HyperConnection_0/Dense_0/kernel", False),
    ("AltUp_1/Dense_0/kernel", False),
    ("blocks/HyperConnection_0/static_mix", True),
    ("Expand_0/scale", True),
    ("Reduce_1/kernel", True),
    ("stack/expand_streams/bias", True),
    ("stack/layers/attn_connection/static_read", True),
    ("connection/Dense_0/kernel", True),
    ("Unregistered_0/Dense_0/kernel", True),
    ("Unregistered_0/static_fade", True),
    ("Unknown_0/static_fade", False),
  ],
)
def test_whose_a_parameter_is_by_its_path(path, wanted):
  class Unregistered(hc.Connection):
    """A connection that is imported, but never registered."""

  assert hc.params.is_connection(path) == wanted, Unregistered


class WithAHalf(hc.HyperConnection):
  """A connection in the declared form, with its own parameter name, never registered."""

  def declare(self, width, index):
    return super().declare(width, index) | {
      "half": hc.connections.Param((1,), nn.initializers.ones)
    }


@pytest.mark.parametrize("cls", [*hc.CONNECTIONS.values(), WithAHalf], ids=lambda cls: cls.__name__)
def test_what_a_class_declares_is_its_own_and_nothing_else_is(cls):
  for name in cls(parent=None).declare(8, 0):
    assert hc.params.is_connection(f"blocks_1/{cls.__name__}_3/{name}")
    assert not hc.params.is_connection(f"blocks_1/Dense_3/{name}")
  assert not hc.params.is_connection(f"blocks_1/{cls.__name__}_3/kernel")


class Residual(nn.Module):
  """A user's own block that has the name of a connection class."""

  @nn.compact
  def __call__(self, h):
    return nn.Dense(h.shape[-1])(h)


def test_a_users_block_by_the_name_of_a_connection_is_none():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      streams = hc.expand(x, 2)
      connection = hc.HyperConnection(num_streams=2, dynamic=False)
      h, coefs = connection(streams, 0)
      return hc.reduce(connection.write(streams, Residual()(h), coefs))

  variables = jax.eval_shape(Net().init, jax.random.key(0), np.ones((3, 8), np.float32))
  assert set(variables["params"]) == {"HyperConnection_0", "Residual_0"}
  assert hc.param_count(variables["params"]).connection == 2 * 4
