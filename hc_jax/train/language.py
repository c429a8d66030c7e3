"""The language model as a task: the one place that reads a config's model, data and batches."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from hc_jax import data, models, sharding
from hc_jax.config_keys import arguments
from hc_jax.errors import UserError, in_words, named
from hc_jax.plan.out_of_memory import needs_of
from hc_jax.runs.tokenizer import keep_tokenizer
from hc_jax.runs.workdir import LANGUAGE_MODEL
from hc_jax.step.loss import eval_step, parts_of, summary, token_init, token_loss, token_weight
from hc_jax.step.task import Task, Telemetry
from hc_jax.train import debug_nans
from hc_jax.train.telemetry import telemetry

LOOK_LENGTH = 128  # tokens of a window that telemetry looks at


def make_mesh(config: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Returns the mesh of a config, on which its batches divide.

  Args:
    config: of `hc_jax.config.load_config`.
    devices: of the mesh; all there are by default.

  Raises:
    UserError: it does not fit the devices, or a batch does not divide over it.
  """
  sizes = {axis: config.mesh[axis] for axis in sharding.AXES}
  rows, parts = config.train.batch_size, config.train.accumulation
  with named(arguments()):
    mesh = sharding.make_mesh(config.mesh.preset, devices=devices, **sizes)
    sharding.check_batch(
      mesh, config.mesh.preset, batch_size=rows, accumulation=parts, length=config.data.length
    )
  return mesh


def language_model(
  config: Any, mesh: Mesh, log: Callable[[str], None] = print, copies: int = 1
) -> Task:
  """Returns the task that a config describes; prepares the data, if that is still to do.

  Args:
    config: of `hc_jax.config.load_config`.
    mesh: of `make_mesh`.
    log: gets lines about the data.
    copies: of the model that one program trains, for several seeds; memory is planned by it.

  Raises:
    UserError: whatever is wrong with data or model.
  """
  rows, length = config.train.batch_size, config.data.length
  with named(arguments()):
    tokenizer = data.load_tokenizer(config.data.tokenizer)
  model = models.make_model(config.model, tokenizer.vocab_size)  # before what takes its time
  text = open_text(config.data, log, tokenizer)
  if rows * length > len(text.train):
    raise UserError(
      f"train.batch_size={rows} windows of data.length={length} are {rows * length:,} tokens, and "
      f"{config.data.name} has only {len(text.train):,} to train on; lower train.batch_size"
    )
  val = _val_batches(config, text, mesh)
  parts = _loss_parts(config, model, mesh, copies)
  sums = functools.partial(
    eval_step, model=model, token_bytes=text.tokenizer.token_bytes, loss_parts=parts
  )
  looks = functools.partial(telemetry, model=model)
  spec = config.data.tokenizer
  return Task(
    init=token_init(model, length),
    loss=token_loss(model, parts),
    weight=token_weight,
    train=functools.partial(train_batches, config, text, sharding.process_block(mesh)),
    evaluate=lambda variables, batch: sums(variables["params"], batch),
    summarise=summary,
    val=val,
    name=LANGUAGE_MODEL,
    identity={
      "fingerprint": text.fingerprint,
      "tokenizer": spec,
      "vocab_size": text.tokenizer.vocab_size,
    },
    about=f"{rows} x {length} = {rows * length:,} tokens a step, accumulation "
    f"{config.train.accumulation}; vocabulary {text.tokenizer.vocab_size:,} ({spec})",
    unit="tokens",
    units_per_step=rows * length,
    telemetry=Telemetry(
      lambda variables, batch: looks(variables["params"], batch), _few(config, mesh, val[0])
    ),
    locate=functools.partial(debug_nans.in_forward, model),
    keep=functools.partial(keep_tokenizer, spec=spec),
    needs=functools.partial(needs_of, config, mesh),
  )


def open_text(
  config: Any, log: Callable[[str], None] = print, tokenizer: data.Tokenizer | None = None
) -> data.TextData:
  """Returns the text that the group `data` of a config names; prepared first, if still to do.

  Args:
    config: the group.
    log: gets lines about the data.
    tokenizer: the one that the group names, if it is open already.

  Raises:
    UserError: whatever is wrong with the text or the tokenizer.
  """
  words = arguments()
  with named(words):
    return data.load_text(
      config.name,
      files=config.files,
      field=config.field,
      tokenizer=tokenizer or config.tokenizer,
      data_dir=config.dir,
      val_fraction=config.val_fraction,
      length=config.length,
      log=lambda line: log(in_words(line, words)),
    )


def train_batches(config: Any, text: data.TextData, block: tuple[int, int], seed: int) -> Any:
  """Returns the endless training batches of a seed; `[s]` makes step s + 1.

  Args:
    config: of a run.
    text: that it is trained on.
    block: (i, count): of every batch only the i-th of `count` blocks of rows.
    seed: of the order of the windows.
  """
  with named(arguments()):
    return data.train_batches(
      text.train,
      batch_size=config.train.batch_size,
      seed=seed,
      length=config.data.length,
      document_mask=config.data.document_mask,
      block=block,
    )


def _val_batches(config: Any, text: data.TextData, mesh: Mesh) -> data.EvalBatches:
  # Evaluation takes the parts' size, for memory; the set is that of whole batches all the same.
  with named(arguments()):
    return data.eval_batches(
      text.val,
      batch_size=config.train.batch_size // config.train.accumulation,
      num_batches=config.train.eval_batches * config.train.accumulation,
      length=config.data.length,
      document_mask=config.data.document_mask,
      block=sharding.process_block(mesh),
    )


def _loss_parts(config: Any, model: Any, mesh: Mesh, copies: int) -> int:
  """Returns in how many parts the logits of a micro-batch are made."""
  length = config.data.length
  rows = copies * config.train.batch_size // config.train.accumulation
  return parts_of(length, rows * length * model.vocab_size // mesh.size, config.train.loss_parts)


def _few(config: Any, mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns, of a validation batch, one row for each part that the mesh splits a batch into."""
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  rows = config.train.batch_size // config.train.accumulation
  keep = max(1, len(batch["inputs"]) * shards // rows)  # of this process
  length = min(LOOK_LENGTH, config.data.length)
  length -= length % mesh.shape["tensor"]
  names = [name for name in ("inputs", "segment_ids") if name in batch]
  return {name: batch[name][:keep, :length] for name in names}
