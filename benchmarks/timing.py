"""Timing of programs side by side: every round runs each program once, in a rotating order."""

import dataclasses
import json
import math
import pathlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MEGA = 1e6


@dataclasses.dataclass
class Program:
  """A program to time.

  Attributes:
    run: function that does the work once and returns when it is done.
    compile_s: seconds of compilation, or None.
    memory_mb: megabytes of temporary buffers and results, by the compiler, or None.
  """

  run: Callable[[], Any]
  compile_s: float | None = None
  memory_mb: float | None = None


def jax_program(function: Callable, *args: Any, carries: bool = False) -> Program:
  """Compiles `function(*args)`.

  Args:
    function: pure, or jitted already.
    *args: arrays; they must not be used again if `function` donates them.
    carries: whether the first result of a run is the first argument of the next run.
  """
  import jax

  start = time.perf_counter()
  compiled = (function if hasattr(function, "lower") else jax.jit(function)).lower(*args).compile()
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  held = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  given = list(args)

  def run() -> None:
    out = jax.block_until_ready(compiled(*given))
    if carries:
      given[0] = out[0]

  return Program(run, seconds, held / MEGA)


def interleave(programs: Mapping[str, Program], rounds: int, warmup: int = 2) -> dict[str, dict]:
  """Times all programs, and returns the figures of each, in milliseconds.

  `wall` and `cpu` (processor time of all threads) are medians, `low` and `high` the quartiles of
  `wall`. If other programs run on the machine, `cpu` is steadier for a program on the CPU.
  """
  names = list(programs)
  for name in names:
    for _ in range(warmup):
      programs[name].run()
  walls, cpus = {name: [] for name in names}, {name: [] for name in names}
  for turn in range(rounds):
    for name in names[turn % len(names) :] + names[: turn % len(names)]:
      wall, cpu = time.perf_counter(), time.process_time()
      programs[name].run()
      cpus[name].append(1e3 * (time.process_time() - cpu))
      walls[name].append(1e3 * (time.perf_counter() - wall))
  rows = {}
  for name in names:
    low, _, high = statistics.quantiles(walls[name], n=4) if rounds > 1 else [walls[name][0]] * 3
    rows[name] = {
      "wall": statistics.median(walls[name]),
      "low": low,
      "high": high,
      "cpu": statistics.median(cpus[name]),
      "cpu_over_first": ratio(cpus[names[0]], cpus[name]),
      "compile_s": programs[name].compile_s,
      "memory_mb": programs[name].memory_mb,
    }
  return rows


def ratio(base: Sequence[float], times: Sequence[float]) -> list[float] | None:
  """Returns the geometric mean of `times` over `base`, paired, with its 95 % interval."""
  from scipy.special import stdtrit

  if len(base) < 2 or not all([*base, *times]):
    return None
  logs = [math.log(time / of) for of, time in zip(base, times, strict=True)]
  mean = statistics.mean(logs)
  half = stdtrit(len(logs) - 1, 0.975) * statistics.stdev(logs) / math.sqrt(len(logs))
  return [math.exp(x) for x in (mean, mean - half, mean + half)]


def print_rows(title: str, rows: Mapping[str, dict], base: str | None = None) -> None:
  """Prints a Markdown table; ratios are to the row `base`, the first by default."""
  base = rows.get(base) or next(iter(rows.values()))
  print(f"\n{title}\n")
  print(
    "| | ms | quartiles | ratio | processor ms | ratio | memory MB | compiled in s |\n"
    "|---|---|---|---|---|---|---|---|"
  )
  for name, row in rows.items():
    memory, compiled = (
      "" if row[key] is None else f"{row[key]:.{digits}f}"
      for key, digits in (("memory_mb", 0), ("compile_s", 1))
    )
    print(
      f"| {name} | {row['wall']:.2f} | {row['low']:.2f}-{row['high']:.2f} "
      f"| {row['wall'] / base['wall']:.2f} | {row['cpu']:.2f} | {row['cpu'] / base['cpu']:.2f} "
      f"| {memory} | {compiled} |",
      flush=True,
    )


def about() -> dict[str, Any]:
  """Returns the origin of a table: device, versions, commit, date."""
  import jax

  device = jax.devices()[0]
  kind = device.device_kind if device.platform != "cpu" else f"CPU, {platform.machine()}"
  root = pathlib.Path(__file__).resolve().parents[1]
  commit = subprocess.run(
    ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
  ).stdout.strip()
  versions = {"jax": jax.__version__, "python": platform.python_version()}
  return {
    "device": f"{len(jax.devices())} x {kind}",
    **versions,
    "commit": commit or "no git",
    "date": time.strftime("%Y-%m-%d"),
  }


def describe(facts: Mapping[str, Any]) -> str:
  """Returns the facts of `about` in one line."""
  return (
    f"{facts['device']}, JAX {facts['jax']}, Python {facts['python']}, commit {facts['commit']}, "
    f"{facts['date']}"
  )


def write_json(path: pathlib.Path | None, facts: Mapping, tables: Mapping[str, Mapping]) -> None:
  """Writes all figures as JSON, unless `path` is None."""
  if path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "tables": tables}, indent=1) + "\n")


def numbers(text: str) -> list[int]:
  """Parses a flag such as "256,512" into `[256, 512]`."""
  return [int(part) for part in text.split(",")]


def chosen(text: str, table: Mapping[str, Any] | Sequence[str]) -> list[str]:
  """Returns the names in "a,b"; exits with the known names if the table lacks one."""
  names = text.split(",") if text else list(table)
  if unknown := [name for name in names if name not in table]:
    raise SystemExit(f"{', '.join(unknown)}: unknown; choose from {', '.join(table)}")
  return names
