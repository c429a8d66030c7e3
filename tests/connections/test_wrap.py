"""A branch and its connection as one module: arguments, outputs, collections, layouts."""

import functools

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal

HC = functools.partial(hc.HyperConnection, num_streams=3)
X = normal("x", 2, 5, 8)


class ByHand(nn.Module):
  """Two sites in the two lines of the contract, with the parameter names that wrap gives."""

  @nn.compact
  def __call__(self, x):
    streams = hc.expand(x, 3)
    for index in range(2):
      connection = HC(name=f"site{index}_connection")
      h, coefs = connection(streams, index)
      streams = connection.write(streams, nn.Dense(8, name=f"dense{index}")(h), coefs)
    return hc.reduce(streams)


class Wrapped(nn.Module):
  """A network with the same function, built with `wrap`."""

  @nn.compact
  def __call__(self, x):
    streams = hc.expand(x, 3)
    for index in range(2):
      branch = nn.Dense(8, name=f"dense{index}")
      streams = hc.wrap(branch, HC(), name=f"site{index}")(streams, index)
    return hc.reduce(streams)


def kicked(tree):
  return jax.tree.map(lambda p: p + 0.3 * normal(str(p.shape), *p.shape), nn.unbox(tree))


def test_a_wrapped_branch_is_the_two_lines():
  params = kicked(jit(ByHand().init)(jax.random.key(0), X)["params"])
  want = jit(ByHand().apply)({"params": params}, X)
  names = {"dense0": params["dense0"], "dense1": params["dense1"]}
  names |= {f"site{i}": {"connection": params[f"site{i}_connection"]} for i in range(2)}
  shapes = jax.eval_shape(Wrapped().init, jax.random.key(0), X)["params"]
  chex.assert_trees_all_equal_shapes(nn.unbox(shapes), names)
  np.testing.assert_array_equal(jit(Wrapped().apply)({"params": names}, X), want)
  assert hc.param_count(shapes).connection == 2 * (8 * 5 + 15 + 2)


def test_a_branch_made_outside_lies_in_the_wrap_and_starts_by_its_index():
  module = hc.wrap(nn.Dense(8), HC)
  params = nn.unbox(jit(module.init)(jax.random.key(0), hc.expand(X, 3), 1)["params"])
  assert set(params) == {"branch", "connection"}
  np.testing.assert_array_equal(params["connection"]["static_read"], [[0, 1, 0]])


def test_the_index_must_be_given():
  with pytest.raises(TypeError, match="index"):
    hc.wrap(jnp.sin, HC).init(jax.random.key(0), hc.expand(X, 3))


def test_one_connection_in_two_wraps_shares_nothing():
  connection = HC()

  class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
      streams = hc.expand(x, 3)
      for index in range(2):
        streams = hc.wrap(jnp.sin, connection)(streams, index)
      return hc.reduce(streams)

  params = nn.unbox(jax.eval_shape(Two().init, jax.random.key(0), X)["params"])
  assert set(params) == {"Wrapped_0", "Wrapped_1"}


def test_arguments_reach_the_branch_and_several_outputs_come_back():
  @flax.struct.dataclass
  class Out:
    y: jax.Array
    aux: dict

  streams = hc.expand(X, 1)
  for make in (lambda y, aux: (y, aux), lambda y, aux: [y, aux], Out):
    wrapped = hc.wrap(lambda h, a, b, make=make: make(a * h + b, {"seen": h}), hc.Residual)
    out = wrapped.apply({}, streams, 0, 2.0, b=1.0)
    first, aux = jax.tree.leaves(out)
    np.testing.assert_allclose(first[..., 0, :], X + 2 * X + 1, rtol=1e-6)
    np.testing.assert_array_equal(aux, X)
    assert type(out) is type(make(X, {}))


@pytest.mark.parametrize(
  "branch, error, words",
  [
    (lambda h: {"y": h, "aux": h}, TypeError, "no leaf is first"),
    (lambda h: ({"y": h}, h), TypeError, "tuple with the branch output first"),
    (lambda h: None, TypeError, "returned nothing"),
    (lambda h: h[..., :4], ValueError, "shape of its input"),
  ],
)
def test_what_a_branch_may_not_return(branch, error, words):
  with pytest.raises(error, match=words):
    hc.wrap(branch, hc.Residual).apply({}, hc.expand(X, 1), 0)


def test_batch_statistics_dropout_and_caches_of_the_branch():
  class Branch(nn.Module):
    @nn.compact
    def __call__(self, h, train):
      h = nn.BatchNorm(use_running_average=not train, momentum=0.5)(h)
      calls = self.variable("cache", "calls", lambda: jnp.zeros((), jnp.int32))
      calls.value += 1
      return nn.Dropout(0.5, deterministic=not train)(h), calls.value

  module, streams = hc.wrap(Branch(), hc.Residual), hc.expand(X + 3, 1)
  variables = jit(lambda *a: module.init(*a, train=False))(jax.random.key(0), streams, 0)
  run = jit(
    lambda v, key: module.apply(
      v, streams, 0, train=True, rngs={"dropout": key}, mutable=["batch_stats", "cache"]
    )
  )
  (out, calls), state = run(variables, jax.random.key(1))
  assert int(calls) == int(state["cache"]["branch"]["calls"]) == 2
  mean = state["batch_stats"]["branch"]["BatchNorm_0"]["mean"]
  np.testing.assert_allclose(mean, 0.5 * (X + 3).mean((0, 1)), rtol=1e-5)
  dropped = np.asarray(out[..., 0, :] == X + 3)
  assert 0.2 < dropped.mean() < 0.8  # on the branch output alone
  other = run(variables, jax.random.key(2))[0][0]
  assert np.any(np.asarray(out) != np.asarray(other))


def test_the_decorator_makes_a_site_of_its_own_at_every_call():
  @hc.connected(HC)
  def feed_forward(h, width):
    return nn.Dense(h.shape[-1])(nn.gelu(nn.Dense(width)(h)))

  class Decorated(nn.Module):
    @nn.compact
    def __call__(self, x):
      streams = hc.expand(x, 3)
      streams = feed_forward(streams, 0, 16)
      streams = feed_forward(streams, 1, 16, name="second")
      return hc.reduce(streams)

  assert feed_forward.__name__ == "feed_forward"
  params = jit(Decorated().init)(jax.random.key(0), X)["params"]
  assert set(params) == {"Wrapped_0", "second"}
  assert set(params["second"]) == {"connection", "Dense_0", "Dense_1"}
  np.testing.assert_array_equal(
    nn.unbox(params)["second"]["connection"]["static_read"], [[0, 1, 0]]
  )
  out = jit(Decorated().apply)({"params": params}, X)

  def residual(x, dense):
    return x + nn.gelu(x @ dense["Dense_1"]["kernel"]) @ dense["Dense_0"]["kernel"]

  want = residual(residual(X, params["Wrapped_0"]), params["second"])
  np.testing.assert_allclose(out, 3 * want, rtol=2e-5, atol=2e-5)


class ImageNet(nn.Module):
  """Images by a convolution that wants its channels last (axis -1) or first (axis 1)."""

  axis: int
  fractions: int = 1

  @nn.compact
  def __call__(self, x):
    connection = hc.make_connection("hc" if self.fractions == 1 else "frac")
    streams = hc.expand(x, 4, self.fractions, axis=self.axis)
    kernel = self.param("kernel", lambda key: jnp.asarray(normal("conv", 3, 3, 8, 8)))
    layout = ("NHWC", "HWIO", "NHWC") if self.axis == -1 else ("NCHW", "HWIO", "NCHW")

    def conv(h):
      return jax.lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=layout)

    for index in range(2):
      streams = hc.wrap(conv, connection, axis=self.axis)(streams, index)
    return hc.reduce(streams, self.fractions, axis=self.axis)


@pytest.mark.parametrize("fractions", [1, 4])
def test_images_with_channels_last_or_first(fractions):
  images = normal("images", 2, 6, 5, 8)
  last, first = ImageNet(-1, fractions), ImageNet(1, fractions)
  params = kicked(jit(last.init)(jax.random.key(0), images)["params"])
  want = jit(last.apply)({"params": params}, images)
  got = jit(first.apply)({"params": params}, images.transpose(0, 3, 1, 2))
  chex.assert_shape(got, (2, 8, 6, 5))
  np.testing.assert_allclose(got.transpose(0, 2, 3, 1), want, rtol=1e-4, atol=1e-4)


def test_images_without_wrap_and_a_convolution_of_flax():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      streams = hc.expand(x, 3)
      connection = HC()
      h, coefs = connection(streams, 0)
      return hc.reduce(connection.write(streams, nn.Conv(8, (3, 3), name="conv")(h), coefs))

  images = normal("images", 2, 6, 5, 8)
  params = nn.unbox(jit(Net().init)(jax.random.key(0), images)["params"])
  want = images + nn.Conv(8, (3, 3)).apply({"params": params["conv"]}, images)
  np.testing.assert_allclose(jit(Net().apply)({"params": params}, images), 3 * want, rtol=1e-4)


def test_no_batch_at_all():
  one = X[0, 0]
  params = kicked(jit(Wrapped().init)(jax.random.key(0), one)["params"])
  run = jit(Wrapped().apply)
  np.testing.assert_allclose(run({"params": params}, one), run({"params": params}, X)[0, 0], 1e-5)


def test_several_views_have_no_channels_first():
  views = hc.wrap(jnp.sin, HC(num_views=2), axis=1)
  with pytest.raises(ValueError, match="num_views=1"):
    views.init(jax.random.key(0), hc.expand(X, 3), 0)
