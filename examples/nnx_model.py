"""Hyper-connections in a Flax NNX model, trained with `nnx.Optimizer`.

Fits a small function, then runs the same weights as a residual network:
python nnx_model.py [--steps=N]
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import hc_jax as hc

WIDTH, DEPTH, STREAMS = 16, 4, 4
TEACHER = jax.random.normal(jax.random.key(9), (WIDTH, WIDTH)) / 2


class Block(nnx.Module):
  """A feed-forward branch at a connection of its own."""

  def __init__(self, index, *, rngs):
    """Makes the block of site `index`, counted through the network from 0."""
    self.connection = hc.nnx.HyperConnection(WIDTH, index, num_streams=STREAMS, rngs=rngs)
    self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
    self.into = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
    self.out = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

  def __call__(self, streams):
    """Maps streams `[..., STREAMS, WIDTH]` to the next streams."""
    h, coefs = self.connection(streams)
    y = self.out(nnx.gelu(self.into(self.norm(h))))
    return self.connection.write(streams, y, coefs)


class Model(nnx.Module):
  """Maps `[..., WIDTH]` to `[..., WIDTH]`."""

  def __init__(self, *, rngs):
    """Makes DEPTH blocks."""
    self.blocks = nnx.List([Block(index, rngs=rngs) for index in range(DEPTH)])
    self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
    self.head = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

  def __call__(self, x):
    streams = hc.expand(x, STREAMS)
    for block in self.blocks:
      streams = block(streams)
    return self.head(self.norm(hc.reduce(streams)))


def batch_of(key, rows=128):
  """Returns inputs and the targets to fit, those of one random layer."""
  x = jax.random.normal(key, (rows, WIDTH))
  return x, jnp.tanh(x @ TEACHER)


def loss_of(model, x, y):
  """Returns the mean squared error."""
  return jnp.mean((model(x) - y) ** 2)


@nnx.jit
def train_step(model, optimizer, x, y):
  """Makes one step in place; returns the loss before it."""
  loss, grads = nnx.value_and_grad(loss_of)(model, x, y)
  optimizer.update(model, grads)
  return loss


def main(steps=200):
  """Trains for some steps; returns the losses, and the number of parameters of connections."""
  model = Model(rngs=nnx.Rngs(0))
  adamw = optax.adamw(1e-2, weight_decay=1e-3, mask=hc.decay_mask)
  optimizer = nnx.Optimizer(model, adamw, wrt=nnx.Param)
  count = hc.param_count(nnx.state(model, nnx.Param))
  print(f"{count.total:,} parameters, {count.connection:,} of them of hyper-connections")
  losses = []
  for step in range(steps):
    batch = batch_of(jax.random.key(step))
    losses.append(float(train_step(model, optimizer, *batch)))
    if step % 50 == 0 or step == steps - 1:
      print(f"step {step:4d}  loss {losses[-1]:.3f}")
  # A copy in which every connection is a plain residual, x + F(x), around the trained branches.
  residual = hc.as_residual(model)
  left = hc.param_count(nnx.state(residual, nnx.Param)).connection
  print(f"as a residual network, {left} parameters of connections:", end=" ")
  print(f"loss {loss_of(residual, *batch_of(jax.random.key(steps))):.3f}")
  return losses, count.connection


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=200)
  main(**vars(parser.parse_args()))
