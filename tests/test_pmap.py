"""Tests a user's training loop: `jax.pmap` with an Optax state equals `jax.jit`."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import normal
from hc_jax.testing.traps.subject import distance

DEVICES, STEPS = 8, 3
BATCHES = normal("batches", STEPS, DEVICES, 2, 3, 8)


class Net(nn.Module):
  connection: hc.Connection

  @nn.compact
  def __call__(self, x):
    streams = hc.expand(x, self.connection.num_streams, self.connection.fractions)
    for i in range(2):
      streams = hc.wrap(nn.Dense(8), self.connection)(streams, i)
    return hc.reduce(streams, self.connection.fractions)


def step(net, optimizer, axis, params, state, x):
  def loss_of(params):
    return jnp.mean((net.apply({"params": params}, x) - jnp.roll(x, 1, -1)) ** 2)

  loss, grads = jax.value_and_grad(loss_of)(params)
  if axis:
    loss, grads = jax.lax.pmean((loss, grads), axis)
  updates, state = optimizer.update(grads, state, params)
  return optax.apply_updates(params, updates), state, loss


@pytest.mark.slow
@pytest.mark.parametrize("connection", [hc.HyperConnection(), hc.MHC(), hc.FracConnection()])
def test_pmap_with_an_optax_state_is_jit(connection):
  assert jax.local_device_count() >= DEVICES
  # Momentum, because Adam divides by the size of gradients, which amplifies their rounding.
  net, optimizer = Net(connection), optax.sgd(1e-3, momentum=0.9)
  params = net.init(jax.random.key(0), BATCHES[0, 0])["params"]
  start = (params, optimizer.init(params))
  spread = jax.tree.map(lambda a: np.stack([np.asarray(a)] * DEVICES), start)
  one = jax.jit(functools.partial(step, net, optimizer, None))
  many = jax.pmap(functools.partial(step, net, optimizer, "d"), axis_name="d")
  for batch in BATCHES:
    *start, loss = one(*start, batch.reshape(-1, *batch.shape[2:]))
    *spread, losses = many(*spread, batch)
    np.testing.assert_allclose(losses, np.full(DEVICES, loss), rtol=1e-5)
  found, before = jax.tree.map(lambda a: np.asarray(a)[0], spread), start
  assert distance(found, jax.device_get(before)) < 1e-5
