"""What a run says while it runs: plain lines, aligned, as good in a file as on a terminal.

In a notebook progress is one line that is replaced, the newest lines are above it, and the loss is
drawn below.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import Mesh

from hc_jax import notebook, output
from hc_jax.errors import in_words
from hc_jax.params import ParamCount
from hc_jax.processes import cluster

# The one of the cell that runs. Not a context variable: threads of a run say lines too.
_block: notebook.Block | None = None


def say(line: str) -> None:
  """Prints a line, as `output.write_line` does. Of several processes only the first speaks.

  Inside `gathered`, in a notebook, the line is one of the cell's block.
  """
  if not cluster.is_main():
    return
  if _block is None:
    output.write_line(line, sys.stdout)
  else:
    _block.write(line)


@contextmanager
def gathered() -> Iterator[None]:
  """Shows all that is said inside in one block of a notebook's cell; elsewhere changes nothing.

  Runs of a sweep, each of which gathers its own lines, share the block of the sweep.
  """
  global _block
  if _block is not None or (found := notebook.block()) is None:
    yield
    return
  _block = found
  try:
    yield
  finally:
    _block = None
    found.finish()


def duration(seconds: float) -> str:
  """Seconds as `0:00:00`, days counted into the hours."""
  minutes, second = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


class Clock:
  """Time spent training, without what is timed apart, as compiling and evaluating."""

  def __init__(self) -> None:
    self.apart = {"compile": 0.0, "eval": 0.0, "checkpoint": 0.0, "telemetry": 0.0}
    self._lap, self._cpu_lap = time.perf_counter(), time.process_time()
    self._paused = self._cpu_paused = 0.0

  @contextmanager
  def paused(self, what: str) -> Iterator[None]:
    """Books the time inside as `what`, and not as training."""
    start, cpu = time.perf_counter(), time.process_time()
    try:
      yield
    finally:
      spent = time.perf_counter() - start
      self.apart[what] += spent
      self._paused += spent
      self._cpu_paused += time.process_time() - cpu

  def lap(self) -> tuple[float, float]:
    """Returns seconds of training since the last lap, and those of all processors together."""
    now, cpu = time.perf_counter(), time.process_time()
    spent, self._lap, self._paused = now - self._lap - self._paused, now, 0.0
    worked, self._cpu_lap, self._cpu_paused = cpu - self._cpu_lap - self._cpu_paused, cpu, 0.0
    return max(spent, 1e-9), max(worked, 0.0)


_WORDS = {
  "loss": ("loss {}", ".4f"),
  "bpb": ("{} bits per byte", ".4f"),
  "ppl": ("perplexity {}", ".4g"),
}


def _place(name: str) -> int:
  return list(_WORDS).index(name) if name in _WORDS else len(_WORDS)


class Console:
  """The header and the lines of a run, or of several side by side."""

  def __init__(
    self, num_steps: int, unit: str = "tokens", words: Mapping[str, str] | None = None
  ) -> None:
    """Prepares the lines.

    Args:
      num_steps: of the run.
      unit: of what steps are counted in.
      words: for arguments that lines name; see `hc_jax.errors.named`.
    """
    self._total, self._unit, self._words = num_steps, unit, words or {}
    self._block = (_block or notebook.block()) if cluster.is_main() else None
    if self._block is not None:
      self._block.restart()

  def say(self, line: str, progress: bool = False) -> None:
    """Says a line; one of progress may be replaced by the next."""
    line = in_words(line, self._words)
    if self._block is None:
      say(line)
    elif progress:
      self._block.progress(line)
    else:
      self._block.write(line)

  def header(
    self,
    *,
    mesh: Mesh,
    preset: str,
    count: ParamCount,
    about: str,
    run: str,
    processes: Sequence[str] = (),
  ) -> None:
    """Says once what is about to run, on what. (What the data is, its preparation has said.)"""
    devices = mesh.devices.flatten()
    sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    self.say(f"run     {run}")
    self.say(
      f"device  {len(devices)} x {devices[0].device_kind} ({devices[0].platform}), "
      f"jax {jax.__version__}, mesh {preset}: {sizes}"
    )
    for line in processes:
      self.say(f"        {line}")
    apart = f": {count.embedding:,} embedding, {count.connection:,} hyper-connection"
    apart = apart if count.embedding or count.connection else ""
    self.say(f"model   {count.total:,} parameters{apart}")
    if about:
      self.say(f"batch   {about}")

  def train(self, step: int, rows: Sequence[dict[str, Any]], eta: float) -> None:
    """Says how far the runs are; `eta` in seconds."""
    row, name = rows[0], f"perf/{self._unit}_per_s"
    rate = f"{row[name]:,.0f} {self._unit}/s" if name in row else f"{1 / row['perf/step_s']:.3g}/s"
    losses = " ".join(f"{each['train/loss']:.4f}" for each in rows)
    lr = f"  lr {row['train/learning_rate']:.2e}" if "train/learning_rate" in row else ""
    self.say(
      f"{self._at(step)}  eta {duration(eta):<8} {rate:>18}  loss {losses}  "
      f"grad {row['train/grad_norm']:.3g}{lr}",
      progress=True,
    )
    if self._block is not None:
      self._block.loss("train", step, row["train/loss"])

  def eval(self, step: int, values: Sequence[dict[str, float]], seconds: float) -> None:
    """Says what an evaluation gave."""
    if self._block is not None and "val/loss" in values[0]:
      self._block.loss("val", step, values[0]["val/loss"])
    names = sorted((name.removeprefix("val/") for name in values[0]), key=_place)
    said = []
    for name in names:
      words, digits = _WORDS.get(name, (name + " {}", ".4g"))
      said.append(words.format(" ".join(f"{row[f'val/{name}']:{digits}}" for row in values)))
    self.say(f"{self._at(step)}  val   {'  '.join(said)}  ({seconds:.1f} s)")

  def saved(self, step: int, seconds: float, waited: float) -> None:
    """Says that a checkpoint is durable, `seconds` after training began to wait for it."""
    self.say(
      f"{self._at(step)}  checkpoint on disk after {seconds:.2f} s, training waited {waited:.2f} s"
    )

  def finished(self, step: int, seconds: float, apart: dict[str, float], workdir: str) -> None:
    """Says that all steps are taken, and what took how long."""
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in apart.items())
    self.say(f"finished step {step:,}: training {seconds:.1f} s, {spent}; {workdir}")
    if apart["telemetry"] and seconds:
      self.say(f"telemetry took {apart['telemetry'] / seconds:.2%} of the training's time")

  def _at(self, step: int) -> str:
    total = f"{self._total:,}"
    return f"step {step:>{len(total)},}/{total} {step / max(self._total, 1):6.1%}"
