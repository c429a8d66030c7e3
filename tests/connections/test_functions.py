"""Connect, expand and reduce of one network, with n and the fractions said once."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal

X = normal("x", 2, 3, 8)


class Net(nn.Module):
  functions: tuple

  @nn.compact
  def __call__(self, x):
    connect, expand, reduce = self.functions
    streams = expand(x)
    for i in range(3):
      streams = connect(nn.Dense(8), name=f"site_{i}")(streams, i)
    return reduce(streams)


class ByHand(nn.Module):
  connection: hc.Connection

  @nn.compact
  def __call__(self, x):
    n, m = self.connection.num_streams, self.connection.fractions
    streams = hc.expand(x, n, m)
    for i in range(3):
      streams = hc.wrap(nn.Dense(8), self.connection, name=f"site_{i}")(streams, i)
    return hc.reduce(streams, m)


@pytest.mark.parametrize(
  "options, connection",
  [
    ({"dynamic": False}, hc.HyperConnection(num_streams=4, dynamic=False)),
    ({"fractions": 2}, hc.FracConnection(num_streams=8, fractions=2)),
    ({"disable": True}, hc.Residual()),
  ],
  ids=["streams", "streams x fractions", "disabled"],
)
def test_the_three_are_what_is_written_by_hand(options, connection):
  net, hand = Net(hc.stream_functions(4, **options)), ByHand(connection)
  params = jit(hand.init)(jax.random.key(0), X)["params"]
  shapes = jax.eval_shape(net.init, jax.random.key(0), X)["params"]
  assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda a: a.shape, shapes)
  found, want = jit(lambda p: (net.apply({"params": p}, X), hand.apply({"params": p}, X)))(params)
  np.testing.assert_array_equal(found, want)


def test_disabled_it_keeps_the_branches_names():
  on = jax.eval_shape(Net(hc.stream_functions(4)).init, jax.random.key(0), X)["params"]
  off = jax.eval_shape(Net(hc.stream_functions(4, disable=True)).init, jax.random.key(0), X)
  sites = {"site_0", "site_1", "site_2"}
  assert set(on) - set(off["params"]) == sites  # of connections alone
  assert set(off["params"]) == set(on) - sites == {"Dense_0", "Dense_1", "Dense_2"}


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="num_streams=0"):
    hc.stream_functions(0)


def test_a_site_without_flax_is_plain_within_the_switch():
  connection = hc.HyperConnection(num_streams=4)
  params = hc.init_site(connection, jax.random.key(0), 8, 0)
  x = np.ones((2, 3, 8), np.float32)
  with hc.plain_residual():
    streams = hc.expand(x, 4)
    coefs = hc.site_maps(connection, params, streams, 0)
    out = hc.reduce(hc.write(streams, 2 * hc.read(streams, coefs), coefs))
  np.testing.assert_array_equal(out, 3 * x)
