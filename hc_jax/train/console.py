"""What a run says while it runs: plain lines, aligned, as good in a file as on a terminal.

In a notebook progress is one line that is replaced, and the newest lines are above it.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import Mesh

from hc_jax import notebook, output
from hc_jax.params import ParamCount
from hc_jax.processes import cluster


def say(line: str) -> None:
  """Prints a line, as `output.write_line` does. Of several processes only the first speaks."""
  if cluster.is_main():
    output.write_line(line, sys.stdout)


def duration(seconds: float) -> str:
  """Seconds as `0:00:00`, days counted into the hours."""
  minutes, second = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


class Clock:
  """Time spent training, without what is timed apart, as compiling and evaluating."""

  def __init__(self) -> None:
    self.apart = {"compile": 0.0, "eval": 0.0, "checkpoint": 0.0, "telemetry": 0.0}
    self._lap = time.perf_counter()
    self._paused = 0.0

  @contextmanager
  def paused(self, what: str) -> Iterator[None]:
    """Books the time inside as `what`, and not as training."""
    start = time.perf_counter()
    try:
      yield
    finally:
      spent = time.perf_counter() - start
      self.apart[what] += spent
      self._paused += spent

  def lap(self) -> float:
    """Seconds of training since the last lap."""
    now = time.perf_counter()
    spent, self._lap, self._paused = now - self._lap - self._paused, now, 0.0
    return max(spent, 1e-9)


class Console:
  """The header and the lines of one run."""

  def __init__(self, num_steps: int) -> None:
    self._total = num_steps
    self._block = notebook.block() if cluster.is_main() else None

  def header(
    self,
    *,
    mesh: Mesh,
    preset: str,
    count: ParamCount,
    batch: str,
    run: str,
    processes: Sequence[str] = (),
  ) -> None:
    """Says once what is about to run, on what. (What the data is, its preparation has said.)"""
    devices = mesh.devices.flatten()
    sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    say(f"run     {run}")
    say(
      f"device  {len(devices)} x {devices[0].device_kind} ({devices[0].platform}), "
      f"jax {jax.__version__}, mesh {preset}: {sizes}"
    )
    for line in processes:
      say(f"        {line}")
    say(
      f"model   {count.total:,} parameters: {count.embedding:,} embedding, "
      f"{count.connection:,} hyper-connection"
    )
    say(f"batch   {batch}")

  def train(self, step: int, row: dict[str, Any], eta: float) -> None:
    """A line of progress; `eta` in seconds."""
    rate = f"{row['perf/tokens_per_s']:,.0f} tokens/s"
    self._say(
      f"{self._at(step)}  eta {duration(eta):<8} {rate:>18}  loss {row['train/loss']:.4f}  "
      f"grad {row['train/grad_norm']:.3g}  lr {row['train/learning_rate']:.2e}",
      progress=True,
    )

  def eval(self, step: int, values: dict[str, float], seconds: float) -> None:
    """A line for an evaluation."""
    bpb = f"  {values['val/bpb']:.4f} bits per byte" if "val/bpb" in values else ""
    self._say(
      f"{self._at(step)}  val   loss {values['val/loss']:.4f}{bpb}  "
      f"perplexity {values['val/ppl']:.4g}  ({seconds:.1f} s)"
    )

  def saved(self, step: int, seconds: float, waited: float) -> None:
    """A line for a checkpoint that is durable, `seconds` after training began to wait for it."""
    self._say(
      f"{self._at(step)}  checkpoint on disk after {seconds:.2f} s, training waited {waited:.2f} s"
    )

  def _say(self, line: str, progress: bool = False) -> None:
    if self._block is None:
      say(line)
    elif progress:
      self._block.progress(line)
    else:
      self._block.write(line)

  def _at(self, step: int) -> str:
    total = f"{self._total:,}"
    return f"step {step:>{len(total)},}/{total} {step / max(self._total, 1):6.1%}"
