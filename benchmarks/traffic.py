"""Counts the memory traffic of connections in programs compiled for a device that is not needed.

A program is a chain of sublayers, each a connection around a norm and one d x d product. Figures
are for one more sublayer: the difference between a longer and a shorter chain. The unit is
C = tokens x d x bytes per element, one pass over an activation. Nothing runs and nothing is timed.

Target `h100` needs JAX's CUDA plugin (the extra cuda13). Target `v5e` needs libtpu (the extra tpu),
and takes the bytes of XLA's own cost analysis. Target `cpu` is the CPU of this machine.

    python benchmarks/traffic.py --target=h100                       # a table
    python benchmarks/traffic.py --target=v5e --rows=residual,dhc4 --remat=branches --json=v5e.json
"""

import argparse
import json
import pathlib
import platform
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import targets


def figures(target, compiled, unit, elements):
  """Returns the figures of one program; `elements` is the number of elements of all streams."""
  from benchmarks import hlo

  kernels = list(hlo.Program(compiled.as_text()).kernels())
  cost = compiled.cost_analysis() or {}
  counted = sum(kernel.bytes for kernel in kernels)
  memory = compiled.memory_analysis()
  large = [(k, a) for k in kernels for a in k.instruction.outputs if a.size >= elements]
  return {
    "bytes_c": (cost["bytes accessed"] if target == "v5e" else counted) / unit,
    "copies": sum(k.times for k in kernels if k.is_copy and _moves(k, elements)),
    "fp32_streams": sum(k.times for k, a in large if a.dtype == "f32"),
    "temp_c": memory.temp_size_in_bytes / unit,
  }


def _moves(kernel, elements):
  return max(array.size for array in kernel.instruction.outputs) >= elements


def measure(target, connection, flags, remat=""):
  """Returns the figures per sublayer, of the forward program and of the one with backward."""
  import jax.numpy as jnp
  from jax import ShapeDtypeStruct

  from benchmarks import programs

  # Both chains have as many slots as the longer one, so that only the sublayers differ.
  connection = programs.connection_factory(connection, num_sites=2 * flags.depth)
  dtype = jnp.dtype(flags.dtype)
  x = ShapeDtypeStruct((flags.batch, flags.length, flags.d), dtype)
  made = connection(parent=None)
  elements = x.size * made.num_streams // made.fractions
  found = []
  depths = (flags.depth, 2 * flags.depth)
  for depth in depths:
    chain = programs.Chain(connection, depth, dtype, remat, scan=not flags.loop)
    forward, both, args = programs.forward_and_both(chain, x)
    row = {}
    for name, function, given in (("forward", forward, args[:2]), ("both", both, args)):
      compiled = targets.compile_for(target, function, *given)
      row[name] = figures(target, compiled, x.size * dtype.itemsize, elements)
      if flags.kernels and depth == depths[-1]:
        print_kernels(name, compiled, x.size * dtype.itemsize)
    found.append(row)
  short, long = found
  return {
    name: {key: (long[name][key] - short[name][key]) / flags.depth for key in long[name]}
    for name in long
  }


def print_kernels(name, compiled, unit):
  """Prints the kernels that move memory, in the order of the program."""
  from benchmarks import hlo

  print(f"\n{name}: times, C read, C written, what")
  for kernel in hlo.Program(compiled.as_text()).kernels():
    if kernel.read + kernel.written < unit / 50:
      continue
    i = kernel.instruction
    outputs = ", ".join(f"{a.dtype}{list(a.shape)}" for a in i.outputs)
    print(
      f"  {kernel.times:3d} {kernel.read / unit:7.2f} {kernel.written / unit:7.2f}  "
      f"{i.op} {i.name} {outputs[:90]}"
    )


HEAD = (
  "| | forward C | forward + backward C | net of the branch: forward | both | stream copies | "
  "fp32 streams written | temporary memory C |\n|---|---|---|---|---|---|---|---|"
)


def line(name, row, branch):
  forward, both = row["forward"], row["both"]
  net = [
    f"{row[p]['bytes_c'] - branch[p]['bytes_c']:.1f}" if branch else "" for p in ("forward", "both")
  ]
  return (
    f"| {name} | {forward['bytes_c']:.1f} | {both['bytes_c']:.1f} | {net[0]} | {net[1]} "
    f"| {both['copies']:.1f} | {both['fp32_streams']:.1f} | {both['temp_c']:.1f} |"
  )


def parse(argv):
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--target", choices=targets.TARGETS, default="h100")
  parser.add_argument("--rows", default="branch,residual,shc4,dhc4,mhc4,frac4,naive4")
  parser.add_argument(
    "--remat", default="", help="count scanned layers with that remat, not a plain loop"
  )
  parser.add_argument("--loop", action="store_true", help="with --remat: layers in a loop")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--length", type=int, default=2048)
  parser.add_argument("--d", type=int, default=2048)
  parser.add_argument("--dtype", default="bfloat16", help="dtype of streams and branches")
  parser.add_argument("--depth", type=int, default=3, help="sublayers of the shorter chain")
  parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file too")
  parser.add_argument("--kernels", action="store_true", help="list the kernels")
  return parser.parse_args(argv)


def main(argv=None):
  flags = parse(argv)
  targets.prepare()
  import jax

  from benchmarks import programs

  rows = {}
  names = flags.rows.split(",")
  if unknown := set(names) - set(programs.CONNECTIONS):
    print(f"--rows: {', '.join(unknown)} unknown; choose from {', '.join(programs.CONNECTIONS)}")
    return 2
  print(HEAD)
  for name in names:
    try:
      rows[name] = measure(flags.target, programs.CONNECTIONS[name], flags, flags.remat)
    except targets.TargetError as error:
      print(error, file=sys.stderr)
      return 2
    print(line(name, rows[name], rows.get("branch")), flush=True)
  if flags.json:
    settings = {k: v for k, v in vars(flags).items() if k not in ("json", "kernels", "rows")}
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    record = {"date": time.strftime("%Y-%m-%d"), "versions": versions, **settings, "rows": rows}
    flags.json.write_text(json.dumps(record, indent=1) + "\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
