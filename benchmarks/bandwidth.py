"""Measures the bandwidth of a copy, the scale for all other figures.

    python benchmarks/bandwidth.py --megabytes=512

One pass reads and writes an array once; the figure counts both.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import timing


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--megabytes", type=int, default=256, help="size of the array (256)")
  parser.add_argument("--rounds", type=int, default=20, help="number of copies (20)")
  parser.add_argument("--json", type=pathlib.Path, help="write the figures to this file too")
  flags = parser.parse_args(argv)
  import jax
  import jax.numpy as jnp

  facts = timing.about()
  x = jax.random.normal(jax.random.key(0), (flags.megabytes, 524288), jnp.bfloat16)
  rows = timing.interleave({"copy": timing.jax_program(lambda x: x + 1, x)}, flags.rounds)
  speed = 2 * x.nbytes / rows["copy"]["wall"] / 1e6
  print(f"{timing.describe(facts)}\ncopy of {flags.megabytes} MiB: {speed:.1f} GB/s")
  timing.write_json(flags.json, {**facts, "gb_per_s": speed}, {"copy": rows})
  return 0


if __name__ == "__main__":
  sys.exit(main())
