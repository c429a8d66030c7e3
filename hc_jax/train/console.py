"""Console output of a run: plain aligned lines, readable in a file and on a terminal.

In a notebook, one progress line is updated in place. The newest other lines stand above it, and the
loss is drawn below.
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

# Block of the running cell. Not a context variable, because threads of a run print lines too.
_block: notebook.Block | None = None


def say(line: str) -> None:
  """Prints a line by `output.write_line`, in process 0 only.

  Inside `gathered`, in a notebook, the line goes to the cell's block.
  """
  if not cluster.is_main():
    return
  block = _block  # a thread that outlives the run must not see it vanish in between
  if block is None:
    output.write_line(line, sys.stdout)
  else:
    block.write(line)


@contextmanager
def gathered() -> Iterator[None]:
  """Shows all lines of the context in one block of a notebook's cell; does nothing elsewhere.

  Nested contexts share the outermost block, so the runs of a sweep use the sweep's block.
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
  """Returns seconds as `h:mm:ss`; hours may exceed 24."""
  minutes, second = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


class Clock:
  """Timer of training, which excludes compilation, evaluation, checkpoints and telemetry."""

  def __init__(self) -> None:
    self.apart = {"compile": 0.0, "eval": 0.0, "checkpoint": 0.0, "telemetry": 0.0}
    self._lap, self._cpu_lap = time.perf_counter(), time.process_time()
    self._paused = self._cpu_paused = 0.0

  @contextmanager
  def paused(self, what: str) -> Iterator[None]:
    """Adds the time spent in the context to `apart[what]` instead of to training."""
    start, cpu = time.perf_counter(), time.process_time()
    try:
      yield
    finally:
      spent = time.perf_counter() - start
      self.apart[what] += spent
      self._paused += spent
      self._cpu_paused += time.process_time() - cpu

  def lap(self) -> tuple[float, float]:
    """Returns wall seconds and CPU seconds (all threads) of training since the last call."""
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
  """Writer of the header and the lines of one run, or of several runs that train together."""

  def __init__(
    self, num_steps: int, unit: str = "tokens", words: Mapping[str, str] | None = None
  ) -> None:
    """Prepares the lines.

    Args:
      num_steps: last step of the run.
      unit: plural noun for the items in a batch, such as "tokens".
      words: texts that replace argument names in lines; see `hc_jax.errors.named`.
    """
    self._total, self._unit, self._words = num_steps, unit, words or {}
    self._block = (_block or notebook.block()) if cluster.is_main() else None
    if self._block is not None:
      self._block.restart()

  def say(self, line: str, progress: bool = False) -> None:
    """Prints a line; in a notebook the next progress line replaces a progress line."""
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
    """Prints the run, its devices, its model and its batch. (Loading the data prints the data.)"""
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
    """Prints step, rate and losses; `rows` has one row per run, `eta` is in seconds."""
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
    """Prints the results of an evaluation; `values` has one mapping per run."""
    if self._block is not None and "val/loss" in values[0]:
      self._block.loss("val", step, values[0]["val/loss"])
    names = sorted((name.removeprefix("val/") for name in values[0]), key=_place)
    said = []
    for name in names:
      words, digits = _WORDS.get(name, (name + " {}", ".4g"))
      said.append(words.format(" ".join(f"{row[f'val/{name}']:{digits}}" for row in values)))
    self.say(f"{self._at(step)}  val   {'  '.join(said)}  ({seconds:.1f} s)")

  def saved(self, step: int, seconds: float, waited: float) -> None:
    """Prints that a checkpoint is durable.

    Args:
      step: step of the checkpoint.
      seconds: time from the start of the save until it was durable.
      waited: part of `seconds` during which training stood still.
    """
    self.say(
      f"{self._at(step)}  checkpoint on disk after {seconds:.2f} s, training waited {waited:.2f} s"
    )

  def finished(self, step: int, seconds: float, apart: dict[str, float], workdir: str) -> None:
    """Prints the end of the run and the seconds that each part took."""
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in apart.items())
    self.say(f"finished step {step:,}: training {seconds:.1f} s, {spent}; {workdir}")
    if apart["telemetry"] and seconds:
      self.say(f"telemetry took {apart['telemetry'] / seconds:.2%} of the training's time")

  def _at(self, step: int) -> str:
    total = f"{self._total:,}"
    return f"step {step:>{len(total)},}/{total} {step / max(self._total, 1):6.1%}"
