"""Training under `jax.pmap`: each device has its part of a batch, and gradients are averaged.

Runs on four devices that JAX makes of one CPU, and checks the result against `jax.jit` on one:
python pmap_training.py [--steps=N]
"""

import os

# Before JAX is imported. On a machine with accelerators, leave this out.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import hc_jax as hc

WIDTH, DEPTH, STREAMS = 16, 3, 4
TEACHER = jax.random.normal(jax.random.key(9), (WIDTH, WIDTH)) / 2


class Model(nn.Module):
  """Maps `[..., WIDTH]` to `[..., WIDTH]`."""

  @nn.compact
  def __call__(self, x):
    streams = hc.expand(x, STREAMS)
    for index in range(DEPTH):
      connection = hc.HyperConnection(num_streams=STREAMS)
      h, coefs = connection(streams, index)
      y = nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(h))))
      streams = connection.write(streams, y, coefs)
    return nn.Dense(WIDTH)(nn.LayerNorm()(hc.reduce(streams)))


MODEL = Model()
# Momentum, since Adam divides by the gradient's size and would make much of its rounding.
OPTIMIZER = optax.chain(optax.add_decayed_weights(1e-4, hc.decay_mask), optax.sgd(0.1, 0.9))


def train_step(params, state, x, axis=None):
  """Makes one step; with `axis` the gradients are averaged over the devices of that axis."""

  def loss_of(params):
    y = jnp.tanh(x @ TEACHER)  # what it learns
    return jnp.mean((MODEL.apply({"params": params}, x) - y) ** 2)

  loss, grads = jax.value_and_grad(loss_of)(params)
  if axis:
    loss, grads = jax.lax.pmean((loss, grads), axis)
  updates, state = OPTIMIZER.update(grads, state, params)
  return optax.apply_updates(params, updates), state, loss


def main(steps=30, rows=64):
  """Trains both ways; returns their losses and the largest difference of a weight."""
  devices = jax.local_device_count()
  params = MODEL.init(jax.random.key(0), jnp.ones((1, WIDTH)))["params"]
  one = (params, OPTIMIZER.init(params))
  many = jax.tree.map(lambda leaf: jnp.stack([leaf] * devices), one)  # a copy for each device
  on_one = jax.jit(train_step)
  on_many = jax.pmap(functools.partial(train_step, axis="devices"), axis_name="devices")
  losses = []
  for step in range(steps):
    batch = jax.random.normal(jax.random.key(step), (rows, WIDTH))
    *one, loss = on_one(*one, batch)
    *many, each = on_many(*many, batch.reshape(devices, -1, WIDTH))
    losses.append((float(loss), float(each[0])))
    if step % 10 == 0 or step == steps - 1:
      print(f"step {step:3d}  loss on one device {loss:.5f}, on {devices} devices {each[0]:.5f}")
  distance = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b[0]))), one[0], many[0])
  largest = max(jax.tree.leaves(distance))
  print(f"largest difference of a weight after {steps} steps: {largest:.1e}")
  return losses, largest


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=30)
  main(**vars(parser.parse_args()))
