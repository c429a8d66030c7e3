"""Evaluation of a run, on its own validation set or on other text."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from hc_jax import data, sharding
from hc_jax.errors import UserError, named
from hc_jax.runs.errors import memory_cause
from hc_jax.step.evaluate import batch_sums, totals
from hc_jax.step.loss import eval_step, parts_of, summary
from hc_jax.train.program import compiler_options
from hc_jax.train.run import Run, TaskRun
from hc_jax.train.run_text import run_tokens

_LAUNCHED = 32  # batches on the device at a time, to bound memory


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Results of evaluating a run on one text.

  Attributes:
    text: description of the text.
    loss: mean loss in nats per token.
    perplexity: `exp(loss)`.
    bits_per_byte: loss in bits per byte of text; None if no token stands for text.
    tokens: number of tokens in the loss.
    documents: number of documents that these tokens come from; the last may be cut.
    num_bytes: number of bytes that these tokens stand for.
  """

  text: str
  loss: float
  perplexity: float
  bits_per_byte: float | None
  tokens: int
  documents: int
  num_bytes: int


def evaluate_run(
  run: Run,
  *,
  files: Sequence[str] = (),
  field: str | None = None,
  split: str | None = None,
  data_dir: str = "",
  batches: int | None = None,
  batch_size: int | None = None,
  log: Callable[[str], None] | None = None,
) -> Evaluation:
  """Evaluates a run as its trainer does, on this process's first device.

  Cuts the text into consecutive windows of the run's `data.length`. With `batches` equal to the
  run's `train.eval_batches`, returns the numbers that the trainer wrote at this step.

  Args:
    run: an opened run, from `load_run`.
    files: files or folders to read instead of the run's text. All of their text counts, including
      a last window that is not full.
    field: name of the text field in records of `files`; None is the run's `data.field`.
    split: split of the run's own text: "val" (also None) or "train".
    data_dir: the folder in which the run's text was prepared; "" is $HC_JAX_DATA or
      ~/.cache/hc_jax.
    batches: largest number of batches, each of the run's `train.batch_size` windows; None is all.
    batch_size: windows that the model takes at a time. It changes memory, and the numbers only by
      rounding. None is the trainer's.
    log: called with lines about the text; None prints them to stderr.

  Raises:
    UserError: an argument or the text is not usable, the run's own text is not prepared in
      `data_dir`, or the device's memory is too small.
  """
  config, train = run.config.data, run.config.train
  rows = train.batch_size // train.accumulation if batch_size is None else batch_size
  for name, value in (("batches", batches), ("batch_size", rows)):
    if value is not None and value < 1:
      raise UserError(f"`{name}={value}` must be at least 1")
  log = log or functools.partial(print, file=sys.stderr)
  tokens, what = run_tokens(run, files=files, field=field, split=split, data_dir=data_dir, log=log)
  with named({"length": "data.length"}):
    windows = data.Windows(tokens, config.length, config.document_mask, tail=bool(files))
  count = min(len(windows), len(windows) if batches is None else batches * train.batch_size)
  sums = _sums(run, data.EvalBatches(windows, count, min(rows, max(count, 1))))
  means = summary(totals(sums))
  return Evaluation(
    text=what,
    loss=means["val/loss"],
    perplexity=means["val/ppl"],
    bits_per_byte=means.get("val/bpb"),
    tokens=int(sum(float(s["tokens"]) for s in sums)),
    documents=int(np.searchsorted(tokens.offsets[:-1], count * config.length)),
    num_bytes=sum(int(s["bytes"]) for s in sums),
  )


def _sums(run: Run, batches: data.EvalBatches) -> list[dict[str, Any]]:
  """Returns the sums of each batch, compiled with the trainer's compiler options."""
  device = jax.local_devices()[0]
  mesh = sharding.make_mesh("dp", devices=[device])
  options = compiler_options(run.config.train.deterministic, device.platform)
  token_bytes = jax.device_put(run.tokenizer.token_bytes, sharding.replicated(mesh))
  rows, length = batches[0]["inputs"].shape
  parts = parts_of(length, rows * length * run.model.vocab_size, run.config.train.loss_parts)
  step = functools.partial(
    jax.jit(
      functools.partial(eval_step, model=run.model, loss_parts=parts), compiler_options=options
    ),
    token_bytes=token_bytes,
  )
  sums = []
  try:
    with sharding.use_mesh(mesh, "dp"):
      for start in range(0, len(batches), _LAUNCHED):
        sums += batch_sums(step, run.params, batches[start : start + _LAUNCHED], mesh)
  except jax.errors.JaxRuntimeError as error:
    if (reason := memory_cause(error)) is None:
      raise
    raise UserError(
      f"the device ran out of memory with {batches.batch_size} windows at a time "
      f"({reason[:160]}); lower `batch_size`"
    ) from error
  return sums


def evaluate_task(run: TaskRun) -> dict[str, float]:
  """Evaluates a run of a task on the task's validation set.

  Args:
    run: an opened run, from `load_task_run`.

  Returns:
    The values of `task.summarise`, by name.

  Raises:
    UserError: the task has no validation set.
  """
  task = run.task
  if not task.evaluates:
    raise UserError(
      f"the task {task.name!r} cannot be evaluated; give it `val`, `evaluate` and `summarise`"
    )
  mesh = sharding.make_mesh("dp", devices=jax.local_devices()[:1])
  with sharding.use_mesh(mesh, "dp"):
    sums = batch_sums(jax.jit(task.evaluate), run.variables, task.val, mesh)
  return dict(task.summarise(totals(sums)))
