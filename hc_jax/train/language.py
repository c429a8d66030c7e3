"""The language model as a task. No other module reads the model, data and batches of a config."""

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

LOOK_LENGTH = 128  # tokens of each window that telemetry uses


def make_mesh(config: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Returns the mesh of a config.

  Args:
    config: a config, from `hc_jax.config.load_config`.
    devices: devices of the mesh; all devices by default.

  Raises:
    UserError: the mesh does not fit the devices, or a batch cannot be divided over the mesh.
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
  """Returns the task of a config; prepares its data first if that has not been done.

  Args:
    config: a config, from `hc_jax.config.load_config`.
    mesh: mesh of the run, from `make_mesh`.
    log: called with lines about the data.
    copies: number of models that one program trains (one per seed); used to bound memory.

  Raises:
    UserError: the data or the model cannot be made from the config.
  """
  rows, length = config.train.batch_size, config.data.length
  with named(arguments()):
    tokenizer = data.load_tokenizer(config.data.tokenizer)
  # Before the data: a wrong model is then reported without waiting for the preparation.
  model = models.make_model(config.model, tokenizer.vocab_size)
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
  """Opens the text of a config; prepares it first if that has not been done.

  Args:
    config: group `data` of a config.
    log: called with lines about the data.
    tokenizer: tokenizer of the group, if it is open already.

  Raises:
    UserError: the text or the tokenizer cannot be read.
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
  """Returns an endless sequence of training batches; element s is the batch of step s + 1.

  Args:
    config: config of the run.
    text: text to train on.
    block: (i, count); each batch has only the i-th of `count` equal blocks of its rows.
    seed: seed of the order of the windows.
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
  # Evaluation uses micro-batches, to fit in memory, and covers the same windows as whole batches.
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
  """Returns the number of parts in which the logits of a micro-batch are computed."""
  length = config.data.length
  rows = copies * config.train.batch_size // config.train.accumulation
  return parts_of(length, rows * length * model.vocab_size // mesh.size, config.train.loss_parts)


def _few(config: Any, mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns a slice of a validation batch: one row for each shard of the batch on the mesh."""
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  rows = config.train.batch_size // config.train.accumulation
  keep = max(1, len(batch["inputs"]) * shards // rows)  # rows of this process
  length = min(LOOK_LENGTH, config.data.length)
  length -= length % mesh.shape["tensor"]
  names = [name for name in ("inputs", "segment_ids") if name in batch]
  return {name: batch[name][:keep, :length] for name in names}
