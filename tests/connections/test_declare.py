"""The two forms of a variant: free, `coefs`, and declared; and how parameters are held."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import ops
from hc_jax.connections import (
  CONNECTIONS,
  GatedConnection,
  Param,
  connection_factory,
  declared_decays,
  make_connection,
)
from hc_jax.connections.per_stream import PerStreamConnection
from hc_jax.testing.compiled import normal
from hc_jax.testing.conformance.candidate import Candidate
from hc_jax.testing.conformance.suite import CONFORMANCE, NotApplicable

KEY = jax.random.key(0)
STREAMS = normal("streams", 2, 3, 4, 8)


def shapes(module, *args):
  return jax.eval_shape(module.init, KEY, *args)["params"]


class Free(hc.Connection):
  @nn.compact
  def coefs(self, streams, index):
    gate = self.param("gate", nn.initializers.ones, (self.num_streams, 1))
    return hc.Coefs(read=gate.T / self.num_streams, write=gate, mix=None)


class Halved(hc.HyperConnection):
  """Changes what its parent makes, without a parameter of its own."""

  def coefs(self, streams, index):
    found = super().coefs(streams, index)
    return found.replace(write=0.5 * found.write)


class Scaled(hc.HyperConnection):
  """Adds a parameter to its parent's."""

  @nn.compact
  def coefs(self, streams, index):
    found = super().coefs(streams, index)
    gain = self.param("gain", nn.initializers.ones, ())
    return found.replace(write=gain * found.write)


@pytest.mark.parametrize("cls", [Free, Halved, Scaled])
def test_the_free_form_is_known_by_its_class(cls):
  module = cls()
  assert not module.is_declared and module.num_params(8) is None
  (h, coefs), variables = module.init_with_output(KEY, STREAMS, 1)
  assert h.shape == (2, 3, 8)
  own = {Free: {"gate"}, Halved: set(), Scaled: {"gain"}}[cls]
  parents = set() if cls is Free else set(shapes(hc.HyperConnection(), STREAMS, 1))
  assert set(variables["params"]) == own | parents
  if cls is Halved:
    whole = hc.HyperConnection().apply(variables, STREAMS, 1)[1].write
    np.testing.assert_array_equal(coefs.write, 0.5 * whole)


@pytest.mark.parametrize("name", CONNECTIONS)
def test_every_variant_of_the_package_has_the_declared_form(name):
  module = connection_factory(CONNECTIONS[name], num_sites=2)()
  if not type(module).__module__.startswith("hc_jax."):
    pytest.skip("a test has registered it")
  assert module.is_declared
  width = 8 // module.fractions
  found = {} if name == "residual" else shapes(module, np.zeros((1, module.num_streams, width)), 1)
  declared = module.declare(width, 1)
  assert list(found) == sorted(declared)
  assert {k: a.shape for k, a in found.items()} == {k: p.shape for k, p in declared.items()}
  assert sum(a.size for a in found.values()) == module.num_params(8)


class Mean(GatedConnection):
  """A gated variant of a user's: its mix goes from the identity to the mean of the streams."""

  def num_mix_logits(self):
    return 1

  def mix_bias(self):
    return jnp.full(1, -8.0)

  def mix_of(self, logits):
    n, far = self.num_streams, jax.nn.sigmoid(logits)[..., None]
    return far / n + (1 - far) * jnp.eye(n, dtype=jnp.float32).reshape(
      (1,) * (logits.ndim - 1) + (n, n)
    )


class OneScale(PerStreamConnection):
  """A per-stream variant of a user's: one scale for all maps."""

  def declare_scales(self):
    return {"dynamic_scale": Param((1,), nn.initializers.constant(0.1))}

  def scales_of(self, small):
    return small["dynamic_scale"][0], small["dynamic_scale"][0]


@pytest.mark.parametrize("cls", [Mean, OneScale])
@pytest.mark.parametrize("name", ["shapes", "counts", "maps", "claims", "grads", "value", "empty"])
def test_a_variant_of_a_users_keeps_the_contract(cls, name):
  check = next(check for check in CONFORMANCE if check.name == name)
  try:
    check.run(user_candidate(cls))
  except NotApplicable as reason:
    assert name in ("claims", "grads"), reason


@functools.cache
def user_candidate(cls):
  return Candidate(cls.__name__, cls)


class Net(nn.Module):
  """A block of a user's, for Flax's own transforms."""

  @nn.compact
  def __call__(self, streams):
    connection = hc.HyperConnection()
    h, coefs = connection(streams, 0)
    return connection.write(streams, nn.Dense(8)(h), coefs)


def test_a_connection_that_stands_alone_has_plain_arrays():
  for module, args in ((Net(), (STREAMS,)), (hc.Expand(4, kind="scaling"), (STREAMS[..., 0, :],))):
    leaves = jax.tree.leaves(shapes(module, *args), is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert not any(isinstance(leaf, nn.Partitioned) for leaf in leaves)
  boxed = shapes(hc.HyperConnection(partitioned=True), STREAMS, 0)["dynamic_kernel"]
  assert boxed.names == ("embed", None)


@pytest.mark.parametrize(
  "lift",
  [
    lambda: nn.vmap(Net, variable_axes={"params": 0}, split_rngs={"params": True}),
    lambda: nn.remat(Net),
  ],
  ids=["vmap", "remat"],
)
def test_flax_lifts_a_users_block_without_metadata(lift):
  params = shapes(lift()(), STREAMS)
  assert jax.tree.leaves(params)[0].shape[-1:] == (8,) and "Dense_0" in params


def test_flax_scans_a_users_block_without_metadata():
  body = lambda net, streams: (net(streams), None)  # noqa: E731

  class Deep(nn.Module):
    @nn.compact
    def __call__(self, streams):
      options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
      return nn.scan(body, length=3, **options)(Net(), streams)[0]

  remat_scan = nn.remat_scan(Net, lengths=(2, 2))
  assert shapes(Deep(), STREAMS)["Net_0"]["Dense_0"]["kernel"].shape == (3, 8, 8)
  assert shapes(remat_scan(), STREAMS)["Dense_0"]["kernel"].shape == (2, 2, 8, 8)


def test_the_old_word_for_derivatives_is_translated_or_refused():
  made = make_connection("hc", {"implementation": "autodiff"})(parent=None)
  assert (made.implementation, made.derivatives) == ("auto", "autodiff")
  with pytest.raises(ValueError, match="derivatives='autodiff'"):
    hc.HyperConnection(implementation="autodiff").check()
  with pytest.raises(ValueError, match="derivatives='autodiff'"):
    hc.read(STREAMS, hc.Coefs(np.ones((1, 4)), np.ones((4, 1)), None), implementation="autodiff")


def test_the_index_has_no_default():
  with pytest.raises(TypeError, match="index"):
    hc.HyperConnection().init(KEY, STREAMS)


def test_columns_of_one_parameter_serve_several_maps():
  connection = hc.HyperConnection(train_write=False)
  kernel = np.arange(8 * 6).reshape(8, 6)
  parts = connection.parts({"dynamic_kernel": kernel, "static_read": np.zeros((1, 4))})
  np.testing.assert_array_equal(parts["read"]["dynamic_kernel"], kernel[:, :1])
  np.testing.assert_array_equal(parts["mix"]["dynamic_kernel"], kernel[:, 1:5])
  np.testing.assert_array_equal(parts["write"]["dynamic_kernel"], kernel[:, 5:])
  assert "static_read" in parts["read"] and connection.frozen() == {"static_write"}


def test_a_generator_passes_through_jit_once():
  connection, traces = hc.HyperConnection(), []

  @jax.jit
  def maps(streams, generator):
    traces.append(1)
    return ops.coefs(streams, generator)

  params = connection.init(KEY, STREAMS, 0)["params"]
  for _ in range(2):
    maps(STREAMS, hc.HyperConnection().generate(params, 0))
  assert len(traces) == 1


def test_a_bare_tree_goes_by_the_names_that_variants_declare():
  names = declared_decays(CONNECTIONS.values())
  assert names["dynamic_kernel"] and names["read_kernel"] and names["mix_kernel"]
  assert not any(names[name] for name in ("static_read", "norm_scale", "norm_bias", "mix_bias"))
  assert {"static_predict", "static_gate", "mix_scale", "dynamic_scale"} <= set(names)
  mask = hc.decay_mask({"a": {"static_predict": np.zeros((2, 2)), "dynamic_kernel": np.zeros(3)}})
  assert mask == {"a": {"static_predict": False, "dynamic_kernel": True}}


@pytest.mark.parametrize(
  "module", [hc.MHC(), hc.AltUp(num_streams=4), Free()], ids=lambda m: type(m).__name__
)
def test_a_site_without_flax_is_the_modules(module):
  (h, coefs), variables = module.init_with_output(KEY, STREAMS, 1)
  params = hc.init_site(module, KEY, 8, 1)
  same = jax.tree.map(lambda a, b: bool((a == b).all()), params, dict(variables["params"]))
  assert jax.tree.all(same)
  found = hc.site_maps(module, params, STREAMS, 1)
  np.testing.assert_allclose(hc.read(STREAMS, found), h, rtol=1e-6)
  np.testing.assert_allclose(found.write, coefs.write, rtol=1e-6)


def test_a_site_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="d_model=9 cannot be cut into fractions=4"):
    hc.init_site(hc.FracConnection(), KEY, 9, 0)
  assert hc.init_site(hc.Residual(), KEY, 8, 0) == {}
