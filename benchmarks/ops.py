"""Measures the time of one sublayer's connection alone, forward, and forward with backward.

The program is a chain of two sublayers. The branch returns its input, hidden from the compiler.
Figures are for one sublayer. All contenders run in turn in one process, on random streams, and
without compilation and warm-up. `naive` and `einsum-mhc` are straightforward JAX code
(benchmarks/contenders.py). Ratios are to ours.

    python benchmarks/ops.py                                      # a table for each shape
    python benchmarks/ops.py --tokens=16384 --d=2048 --dtypes=bfloat16 --json=ops.json
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import timing

DEPTH = 2
ROWS = "dhc,naive,dhc-autodiff,shc,mhc,einsum-mhc,frac,residual"


def make(connection, tokens, d, dtype):
  """Returns the forward program of a connection, and the one with backward."""
  import jax
  import jax.numpy as jnp

  from benchmarks import programs

  chain = programs.Chain(connection, DEPTH, jnp.dtype(dtype), branch=False)
  x = jax.random.normal(jax.random.key(0), (1, tokens, d)).astype(dtype)
  forward, both, (variables, _, cotangent) = programs.forward_and_both(chain, x)
  variables = _random(variables)
  cotangent = jnp.ones(cotangent.shape, cotangent.dtype)
  return {
    "forward": timing.jax_program(forward, variables, x),
    "forward and backward": timing.jax_program(both, variables, x, cotangent),
  }


def _random(shapes):
  """Returns small random weights like those of a trained model, without zeros."""
  import jax

  leaves, tree = jax.tree.flatten(shapes)
  keys = jax.random.split(jax.random.key(1), max(len(leaves), 1))
  return tree.unflatten(
    [
      0.1 * jax.random.normal(key, leaf.shape, leaf.dtype)
      for key, leaf in zip(keys, leaves, strict=False)
    ]
  )


def connections(names, n):
  """Returns connections of contenders.py by names without n: `"dhc"` gives `dhc4` for n = 4."""
  from benchmarks import contenders

  table, found = contenders.connections(n), {}
  for name in names:
    kind, dash, rest = name.partition("-autodiff")
    found[name] = table[name if name in table else f"{kind}{n}{dash}{rest}"]
  return found


def per_sublayer(rows):
  """Divides the figures of the chain by the number of its sublayers."""
  for row in rows.values():
    for key in ("wall", "low", "high", "cpu", "memory_mb"):
      row[key] = row[key] and row[key] / DEPTH
  return rows


def measure(names, n, tokens, d, dtype, rounds):
  """Returns the rows of one shape, for forward, and for forward and backward."""
  made = {name: make(c, tokens, d, dtype) for name, c in connections(names, n).items()}
  return {
    what: per_sublayer(timing.interleave({name: made[name][what] for name in names}, rounds))
    for what in ("forward", "forward and backward")
  }


def parse(argv):
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--rows", default=ROWS, help=f"contenders; ratios are to the first ({ROWS})")
  parser.add_argument("--tokens", type=timing.numbers, default=[2048], help="tokens (2048)")
  parser.add_argument("--d", type=timing.numbers, default=[512], help="widths (512)")
  parser.add_argument("--n", type=timing.numbers, default=[4], help="numbers of streams (4)")
  parser.add_argument(
    "--dtypes", default="float32,bfloat16", help="dtypes of streams (float32,bfloat16)"
  )
  parser.add_argument("--rounds", type=int, default=15, help="runs of each contender (15)")
  parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file too")
  return parser.parse_args(argv)


def main(argv=None):
  flags = parse(argv)
  names = timing.chosen(flags.rows, ROWS.split(",") + ["branch"])
  facts = timing.about()
  print(timing.describe(facts))
  tables = {}
  for dtype in flags.dtypes.split(","):
    for tokens in flags.tokens:
      for d in flags.d:
        for n in flags.n:
          shape = f"{tokens} tokens, d = {d}, n = {n}, {dtype}"
          found = measure(names, n, tokens, d, dtype, flags.rounds)
          for what, rows in found.items():
            timing.print_rows(f"{what}, {shape}; one sublayer", rows)
            tables[f"{what}, {shape}"] = rows
  timing.write_json(flags.json, facts, tables)
  return 0


if __name__ == "__main__":
  sys.exit(main())
