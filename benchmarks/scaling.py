"""Measures how a training step grows with depth, streams, length, width and devices.

Each row compares one step of DHC with the residual model of the same size, in turn in one process.
It has times, ratios, and the megabytes of the compiled step, without parameters that are updated in
place. Devices are the first ones of this machine. On a CPU, `--devices=1,2,4` splits the CPU into
devices. This shows the memory per device, but not speed.

    python benchmarks/scaling.py                       # every axis, small models on this CPU
    python benchmarks/scaling.py --axes=n,length --shape=olmo_1b
"""

import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import step, timing

AXES = {
  "depth": ("model.num_layers", [2, 4, 8]),
  "n": ("model.connection.num_streams", [1, 2, 4, 8]),
  "length": ("data.length", [128, 256, 512]),
  "d": ("model.d_model", [128, 256, 512]),
  "devices": ("mesh.data", [1]),
}


def parse(argv):
  parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0], epilog="--config.KEY=VALUE changes the shape's config."
  )
  parser.add_argument(
    "--shape", choices=step.SHAPES, default="small", help="shape of the model (small)"
  )
  parser.add_argument(
    "--axes", default="depth,n,length,d", help=f"axes to vary, some of {', '.join(AXES)}"
  )
  parser.add_argument("--devices", type=timing.numbers, default=[1], help="numbers of devices (1)")
  parser.add_argument("--values", type=timing.numbers, help="values of a single axis")
  parser.add_argument("--rounds", type=int, default=9, help="runs of each step (9)")
  parser.add_argument("--json", type=pathlib.Path, help="write all figures to this file too")
  return parser.parse_known_args(argv)


def point(flags, more, axis, key, value):
  """Times DHC with one value of an axis, and the residual model with it (except for n)."""
  setting = f"--config.{key}={value}"
  residual = [] if axis == "n" else [setting]
  made = {
    "residual": step.make(step.load(flags.shape, "residual", [*more, *residual])),
    "dhc": step.make(step.load(flags.shape, "dhc4", [*more, setting])),
  }
  return timing.interleave(made, flags.rounds)


def main(argv=None):
  flags, more = parse(argv)
  names = timing.chosen(flags.axes, AXES)
  if "devices" in names:
    flag = f"--xla_force_host_platform_device_count={max(flags.devices)}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
  facts = timing.about()
  print(timing.describe(facts))
  tables = {}
  for axis in names:
    key, values = AXES[axis]
    values = flags.devices if axis == "devices" else flags.values or values
    print(
      f"\n| {axis} | residual ms | DHC ms | ratio | of processor time | residual MB | DHC MB |"
      "\n|---|---|---|---|---|---|---|"
    )
    for value in values:
      rows = tables[f"{axis} = {value}"] = point(flags, more, axis, key, value)
      plain, hyper = rows["residual"], rows["dhc"]
      print(
        f"| {value} | {plain['wall']:.1f} | {hyper['wall']:.1f} "
        f"| {hyper['wall'] / plain['wall']:.2f} | {hyper['cpu'] / plain['cpu']:.2f} "
        f"| {plain['memory_mb']:.0f} | {hyper['memory_mb']:.0f} |",
        flush=True,
      )
  timing.write_json(flags.json, {**facts, "shape": flags.shape}, tables)
  return 0


if __name__ == "__main__":
  sys.exit(main())
