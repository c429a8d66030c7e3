"""Counts the cost of n = 1, 2, 4 and 8 streams: parameters, FLOPs and activation memory of a step.

It only traces, so nothing is allocated, compiled or run: python expansion_rates.py [--help]
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import hc_jax as hc
from hc_jax.plan import count_flops, kept


def cost_of(connection, *, width, layers, length, vocab):
  """Returns parameters, those of connections, FLOPs a token, and bytes kept of a sequence.

  FLOPs are those of forward and backward, with remat="branches": branch outputs and coefficients
  are kept, and streams are computed again.
  """
  model = hc.models.TransformerLM(
    vocab_size=vocab,
    d_model=width,
    num_layers=layers,
    num_heads=max(1, width // 64),
    connection=connection,
    dtype=jnp.bfloat16,
    remat="branches",
  )

  def batch_of(rows):
    return jax.ShapeDtypeStruct((rows, length + 1), jnp.int32)

  def loss(params, tokens):
    logits = model.apply({"params": params}, tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).sum()

  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens)["params"])
  count = hc.param_count(params)
  flops = count_flops(jax.value_and_grad(loss), params, batch_of(1))
  found = kept(loss, params, batch_of, stream=(connection.num_streams, width), vocab_size=vocab)
  return count.total, count.connection, flops / length, found.row - found.logits, found.streams


def main(width=768, layers=12, length=1024, vocab=50257, rates=(1, 2, 4, 8)):
  """Prints the table; returns a row of numbers for the residual network and for each rate."""
  sizes = {"width": width, "layers": layers, "length": length, "vocab": vocab}
  arms = {"residual": hc.Residual()}
  arms |= {f"DHC n={n}": hc.HyperConnection(num_streams=n) for n in rates}
  print(f"{layers} layers, {width} wide, {length} tokens, vocabulary {vocab}, bfloat16")
  head = ("", "parameters", "of connections", "GFLOPs a token", "more", "MB kept", "of it streams")
  print(("{:<10}" + "{:>16}" * 6).format(*head))
  table = {}
  for arm, connection in arms.items():
    total, own, flops, memory, streams = table[arm] = cost_of(connection, **sizes)
    more = flops / table["residual"][2] - 1
    print(
      f"{arm:<10}{total:>16,}{own:>16,}{flops / 1e9:>16.3f}{more:>16.2%}"
      f"{memory / 1e6:>16.1f}{streams / 1e6:>16.1f}"
    )
  print("FLOPs are of forward and backward; MB are activations that a sequence keeps for it,")
  print('without logits, with remat="branches". Time is another matter: measure it.')
  return table


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  for name, default in (("width", 768), ("layers", 12), ("length", 1024), ("vocab", 50257)):
    parser.add_argument(f"--{name}", type=int, default=default)
  main(**vars(parser.parse_args()))
