"""A training loop of your own: plain Flax and optax around bare hyper-connections.

Trains a small causal transformer on arithmetic sequences: python own_loop.py [--steps=N]
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import hc_jax as hc

VOCAB, LENGTH, WIDTH, LAYERS, STREAMS = 17, 16, 64, 2, 4


class Model(nn.Module):
  """Maps tokens `[batch, length]` to logits `[batch, length, VOCAB]`."""

  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(VOCAB, WIDTH)(tokens)
    x = x + self.param("position_embedding", nn.initializers.normal(0.02), (LENGTH, WIDTH))
    mask = nn.make_causal_mask(tokens)
    streams = hc.expand(x, STREAMS)  # [batch, length, STREAMS, WIDTH]
    for site in range(2 * LAYERS):  # even sites are attention, odd ones feed-forward
      connection = hc.HyperConnection(num_streams=STREAMS)
      h, coefs = connection(streams, site)  # [batch, length, WIDTH]
      h = nn.LayerNorm()(h)
      if site % 2 == 0:
        y = nn.MultiHeadDotProductAttention(num_heads=4)(h, mask=mask)
      else:
        y = nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(h)))
      streams = connection.write(streams, y, coefs)
    return nn.Dense(VOCAB)(nn.LayerNorm()(hc.reduce(streams)))


def batch_of(key, rows=64):
  """Returns rows of `a, a + b, a + 2b, ...` modulo VOCAB, one token more than LENGTH."""
  a, b = jax.random.randint(key, (2, rows, 1), 0, VOCAB)
  return (a + b * jnp.arange(LENGTH + 1)) % VOCAB


def main(steps=200):
  """Trains for some steps; returns the loss of each."""
  model, key = Model(), jax.random.key(0)
  params = model.init(key, batch_of(key)[:, :-1])["params"]
  # Kernels and embeddings decay; norms, biases and static maps of connections do not.
  optimizer = optax.adamw(3e-3, weight_decay=0.1, mask=hc.decay_mask)
  state = optimizer.init(params)
  count = hc.param_count(params)
  print(f"{count.total:,} parameters, {count.connection:,} of them of hyper-connections")

  @jax.jit
  def train_step(params, state, tokens):
    def loss_of(params):
      logits = model.apply({"params": params}, tokens[:, :-1])
      return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  losses = []
  for step in range(steps):
    params, state, loss = train_step(params, state, batch_of(jax.random.fold_in(key, step)))
    losses.append(float(loss))
    if step % 50 == 0 or step == steps - 1:
      print(f"step {step:4d}  loss {loss:.3f}")
  return losses


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=200)
  main(**vars(parser.parse_args()))
