"""A connection of your own, registered by name and taken through the conformance suite.

Checks it, trains it a little, and counts its parameters: python own_variant.py [--steps=N]
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import hc_jax as hc
from hc_jax.testing.conformance import check_connection


class Fade(hc.Connection):
  """Streams that fade, each at a rate of its own, which is learned; all are read alike.

  Attributes:
    fade_init: initial rate; 0 keeps everything, as a residual network does.
  """

  fade_init: float = 0.0

  def facts(self, d_model):
    """Returns the claims that the conformance suite holds this connection against."""
    residual = None if self.fade_init else 1e-5
    return hc.connections.Facts(num_params=self.num_streams, residual_at_init=residual)

  @nn.compact
  def coefs(self, streams, index):
    """Returns the maps of one site; here they depend on neither streams nor index."""
    n, init = self.num_streams, nn.initializers.constant(self.fade_init)
    fade = self.param("static_fade", init, (n, 1), jnp.float32)  # `static_*` does not decay
    read, write = jnp.ones((1, n)) / n, jnp.ones((n, 1))
    return hc.Coefs(read=read, write=write, mix=jnp.eye(n) * (1 - fade))


# From here on configs, the trainer and every tool know it: --import=own_variant on any command.
hc.register("fade", Fade)


def train(steps):
  """Returns the losses of a small language model whose connections are Fade."""
  model = hc.models.TransformerLM(
    vocab_size=17, d_model=32, num_layers=2, num_heads=4, connection=Fade
  )
  tokens = (jnp.arange(32)[:, None] + jnp.arange(17) * jnp.arange(1, 33)[:, None]) % 17
  params = model.init(jax.random.key(0), tokens)["params"]
  count = hc.param_count(params)
  print(f"{count.total:,} parameters, {count.connection:,} of them of connections")
  optimizer = optax.adamw(3e-3, mask=hc.decay_mask)
  state = optimizer.init(params)

  @jax.jit
  def train_step(params, state):
    def loss_of(params):
      logits = model.apply({"params": params}, tokens[:, :-1])
      return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  losses = []
  for _ in range(steps):
    params, state, loss = train_step(params, state)
    losses.append(float(loss))
  print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {steps} steps")
  return losses


def main(steps=50, log=print):
  """Checks and trains; returns the losses. A check that fails raises AssertionError."""
  check_connection(Fade, log=log)
  return train(steps)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=50)
  main(**vars(parser.parse_args()))
