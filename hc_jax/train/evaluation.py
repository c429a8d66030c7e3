"""A run's loss on its own validation text, or on any other."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from hc_jax import data, sharding
from hc_jax.errors import UserError
from hc_jax.train.compilation import compiler_options
from hc_jax.train.errors import memory_cause
from hc_jax.train.evaluate import batch_sums, summary
from hc_jax.train.loss import parts_of
from hc_jax.train.run import Run
from hc_jax.train.step import eval_step
from hc_jax.train.task import open_text

_LAUNCHED = 32  # batches that are on the device at a time


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What a run was found to make of some text.

  Attributes:
    text: which, in words.
    loss: nats per token.
    perplexity: exp of it.
    bits_per_byte: of tokens that stand for text; None if none does.
    tokens: that count in the loss.
    documents: that these tokens are of, the last perhaps in part.
    num_bytes: of text, that the tokens stand for.
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
  batches: int | None = None,
  batch_size: int | None = None,
  log: Callable[[str], None] | None = None,
) -> Evaluation:
  """Evaluates a run as its trainer does, on this process's first device.

  Windows have the run's `data.length`, one after the other. With `batches` equal to the run's
  `train.eval_batches` the numbers are those that its trainer wrote for this step.

  Args:
    run: of `load_run`.
    files: files or folders to read instead of the run's text; all of their text counts, a last
      window that is not full included.
    field: of a record in them that holds the text; None is the run's `data.field`.
    split: of the run's own text, "val" (also None) or "train".
    batches: how many at most, each of the run's `train.batch_size` windows; None is all.
    batch_size: windows that the model takes at a time: it decides about memory, not about the
      numbers, rounding apart. None is the trainer's.
    log: gets lines about the text; None prints them to stderr.

  Raises:
    UserError: what is wrong with these arguments or the text; the run's own text has changed since
      it was trained; the device's memory is too small.
  """
  config, train = run.config.data, run.config.train
  rows = train.batch_size // train.accumulation if batch_size is None else batch_size
  for name, value in (("batches", batches), ("batch-size", rows)):
    if value is not None and value < 1:
      raise UserError(f"--{name}={value} must be at least 1")
  log = log or functools.partial(print, file=sys.stderr)
  tokens, what = _tokens(run, tuple(files), field or config.field, split, log)
  windows = data.Windows(tokens, config.length, config.document_mask, tail=bool(files))
  count = min(len(windows), len(windows) if batches is None else batches * train.batch_size)
  sums = _sums(run, data.EvalBatches(windows, count, rows))
  means = summary(sums)
  return Evaluation(
    text=what,
    loss=means["val/loss"],
    perplexity=means["val/ppl"],
    bits_per_byte=means.get("val/bpb"),
    tokens=int(sum(float(s["tokens"]) for s in sums)),
    documents=int(np.searchsorted(tokens.offsets[:-1], count * config.length)),
    num_bytes=sum(int(s["bytes"]) for s in sums),
  )


def _tokens(
  run: Run, files: tuple[str, ...], field: str, split: str | None, log: Callable[[str], None]
) -> tuple[data.TokenArray, str]:
  """The tokens to evaluate on, and what they are."""
  if files:
    if split is not None:
      raise UserError(f"--split={split} is of the run's own text, and --files another; give one")
    try:
      return data.read_files(files, run.tokenizer, field=field, log=log), ", ".join(files)
    except UserError as error:  # which speaks of the config's keys
      words = str(error).replace("data.files", "--files").replace("data.field", "--field")
      raise UserError(words) from error
  if split not in (None, "val", "train"):
    raise UserError(f"--split={split!r} is unknown; there are val and train")
  text = open_text(run.config.data, log)
  trained_on = run.card["data"]["fingerprint"]
  if text.fingerprint != trained_on:
    raise UserError(
      f"the text of {run.config.data.name}, or its tokenizer, is not that of {run.workdir} "
      f"(fingerprint {trained_on[:12]} there, {text.fingerprint[:12]} here), so its validation "
      "split is another; put the old text back, or give the text with --files"
    )
  split = split or "val"
  return getattr(text, split), f"the {split} split of {run.config.data.name}"


def _sums(run: Run, batches: data.EvalBatches) -> list[dict[str, Any]]:
  """The sums of all batches, compiled with what the trainer tells the compiler."""
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
      f"({reason[:160]}); lower --batch-size"
    ) from error
  return sums
