"""Measures the time of one transformer block (attention, feed-forward) with each connection.

The program is `[B, L, d]` -> expand, the block, reduce -> `[B, L, d]`, forward, and forward with
backward. All contenders run in turn in one process. Ratios are to the residual connection. `naive`
and `einsum-mhc` are straightforward JAX code (benchmarks/contenders.py).

    python benchmarks/block.py                                   # float32 on this CPU
    python benchmarks/block.py --tokens=16384 --length=2048 --d=2048 --heads=16 --dtype=bfloat16
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import timing

ROWS = "residual,shc4,dhc4,naive4,mhc4,einsum-mhc4,frac4"


def make(connection, flags):
  """Returns the forward program of a connection, and the one with backward."""
  import flax.linen as nn
  import jax
  import jax.numpy as jnp

  from hc_jax import models

  dtype = jnp.dtype(flags.dtype)
  model = models.TransformerLM(
    vocab_size=8,
    d_model=flags.d,
    num_layers=1,
    num_heads=flags.heads,
    connection=connection,
    dtype=dtype,
    scan=False,
    remat="none",
  )
  context = models.TokenContext(positions=jnp.arange(flags.length, dtype=jnp.int32)[None])

  def block(model, x):
    return model.reduce_streams(model.stack(model.expand_streams(x), context)).astype(x.dtype)

  x = jax.random.normal(jax.random.key(0), (flags.tokens // flags.length, flags.length, flags.d))
  x = x.astype(dtype)
  variables = jax.jit(lambda key: nn.unbox(model.init(key, x, method=block)))(jax.random.key(1))

  def forward(variables, x):
    return model.apply(variables, x, method=block)

  def both(variables, x, cotangent):
    out, pull = jax.vjp(forward, variables, x)
    return out, pull(cotangent)

  return {
    "forward": timing.jax_program(forward, variables, x),
    "forward and backward": timing.jax_program(both, variables, x, x),
  }


def parse(argv):
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--rows", default=ROWS, help=f"contenders ({ROWS})")
  parser.add_argument("--tokens", type=int, default=2048, help="tokens of a batch (2048)")
  parser.add_argument("--length", type=int, default=256, help="tokens of a sequence (256)")
  parser.add_argument("--d", type=int, default=256, help="width (256)")
  parser.add_argument("--heads", type=int, default=4, help="attention heads (4)")
  parser.add_argument("--dtype", default="float32", help="dtype of streams (float32)")
  parser.add_argument("--rounds", type=int, default=15, help="runs of each contender (15)")
  parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file too")
  return parser.parse_args(argv)


def main(argv=None):
  flags = parse(argv)
  from benchmarks import contenders

  table = {**contenders.connections(4), "dhc2": contenders.connections(2)["dhc2"]}
  names = timing.chosen(flags.rows, table)
  facts = timing.about()
  print(timing.describe(facts))
  made = {name: make(table[name], flags) for name in names}
  tables = {}
  for what in ("forward", "forward and backward"):
    title = f"{what} of a block, {flags.tokens} tokens, length {flags.length}, d = {flags.d}, "
    title += flags.dtype
    tables[title] = timing.interleave({name: made[name][what] for name in names}, flags.rounds)
    timing.print_rows(title, tables[title])
  timing.write_json(flags.json, facts, tables)
  return 0


if __name__ == "__main__":
  sys.exit(main())
