"""A vision transformer of one's own, with hyper-connections, on images that the script draws.

Learns to tell four kinds of patterns apart and prints the accuracy on new images:
python vision_transformer.py [--steps=N]
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import hc_jax as hc

CLASSES, SIZE, PATCH, WIDTH, LAYERS, STREAMS = 4, 16, 4, 48, 3, 4


class VisionTransformer(nn.Module):
  """Maps images `[batch, height, width, channels]` to logits `[batch, CLASSES]`."""

  @nn.compact
  def __call__(self, images):
    x = nn.Conv(WIDTH, (PATCH, PATCH), strides=(PATCH, PATCH), name="patches")(images)
    x = x.reshape(x.shape[0], -1, WIDTH)  # [batch, patches, WIDTH]
    x = x + self.param("position_embedding", nn.initializers.normal(0.02), x.shape[1:])[None]
    streams = hc.expand(x, STREAMS)
    for site in range(2 * LAYERS):  # even sites are attention, odd ones feed-forward
      connection = hc.HyperConnection(num_streams=STREAMS)
      h, coefs = connection(streams, site)  # [batch, patches, WIDTH]
      h = nn.LayerNorm()(h)
      if site % 2 == 0:
        y = nn.MultiHeadDotProductAttention(num_heads=4)(h)
      else:
        y = nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(h)))
      streams = connection.write(streams, y, coefs)
    x = nn.LayerNorm()(hc.reduce(streams))
    return nn.Dense(CLASSES, name="head")(x.mean(axis=1))


def batch_of(key, rows=64):
  """Returns noisy stripes (across, down, diagonal) or a chequerboard, at random phases."""
  keys = jax.random.split(key, 3)
  labels = jax.random.randint(keys[0], (rows,), 0, CLASSES)
  phase = jax.random.uniform(keys[1], (2, rows, 1, 1), maxval=2 * jnp.pi)
  y, x = jnp.meshgrid(jnp.arange(SIZE), jnp.arange(SIZE), indexing="ij")
  a, b = jnp.sin(1.2 * y + phase[0]), jnp.sin(1.2 * x + phase[1])
  kinds = jnp.stack([a, b, jnp.sin(1.2 * (x + y) + phase[0]), a * b])
  images = kinds[labels, jnp.arange(rows)] + 1.5 * jax.random.normal(keys[2], (rows, SIZE, SIZE))
  return images[..., None], labels


def main(steps=60):
  """Trains for some steps; returns the accuracy on 512 images that it never saw."""
  model, key = VisionTransformer(), jax.random.key(0)
  params = model.init(key, batch_of(key)[0])["params"]
  optimizer = optax.adamw(1e-3, weight_decay=0.05, mask=hc.decay_mask)
  state = optimizer.init(params)

  @jax.jit
  def train_step(params, state, images, labels):
    def loss_of(params):
      logits = model.apply({"params": params}, images)
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  for step in range(steps):
    params, state, loss = train_step(params, state, *batch_of(jax.random.fold_in(key, step)))
    if step % 20 == 0 or step == steps - 1:
      print(f"step {step:4d}  loss {loss:.3f}")
  images, labels = batch_of(jax.random.key(1), rows=512)
  logits = jax.jit(model.apply)({"params": params}, images)
  accuracy = float((logits.argmax(-1) == labels).mean())
  print(f"accuracy on {len(labels)} new images: {accuracy:.1%} (guessing: {1 / CLASSES:.0%})")
  return accuracy


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=60)
  main(**vars(parser.parse_args()))
