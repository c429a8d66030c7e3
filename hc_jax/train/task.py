"""From a config to the things that a run is made of, each checked before anything is compiled."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh

from hc_jax import data, models, sharding
from hc_jax.errors import UserError
from hc_jax.step.optim import make_optimizer
from hc_jax.step.state import TrainState, abstract_state


@dataclasses.dataclass(frozen=True)
class Task:
  """What a config stands for.

  Attributes:
    mesh: the devices.
    text: the prepared data, its tokenizer included.
    train: endless training batches; `train[s]` makes step s + 1. With several processes, of each
      batch the rows that this one's devices hold; so of `val`.
    val: the batches of an evaluation, fixed and in order.
    model: gives logits.
    optimizer: with clipping and schedule.
    schedule: learning rate by step.
    abstract: shapes and shardings of the state.
  """

  mesh: Mesh
  text: Any
  train: Any
  val: Sequence[dict[str, Any]]
  model: nn.Module
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  abstract: TrainState


def make_task(
  config: Any,
  log: Callable[[str], None] = print,
  devices: Sequence[jax.Device] | None = None,
) -> Task:
  """Builds what `config` describes; prepares the data, if that is still to do.

  Args:
    config: of `hc_jax.config.load_config`.
    log: gets lines about the data.
    devices: of the mesh; all there are by default.

  Raises:
    UserError: whatever is wrong with mesh, data, model or optimizer.
  """
  mesh_sizes = {axis: config.mesh[axis] for axis in sharding.AXES}
  mesh = sharding.make_mesh(config.mesh.preset, devices=devices, **mesh_sizes)
  rows, parts, length = config.train.batch_size, config.train.accumulation, config.data.length
  sharding.check_batch(mesh, config.mesh.preset, batch_size=rows, accumulation=parts, length=length)
  optimizer, schedule = make_optimizer(config.optim, config.train.num_steps)

  text = open_text(config.data, log)
  if rows * length > len(text.train):
    raise UserError(
      f"train.batch_size={rows} windows of data.length={length} are {rows * length:,} tokens, and "
      f"{config.data.name} has only {len(text.train):,} to train on; lower train.batch_size"
    )
  windows = {"length": length, "document_mask": config.data.document_mask}
  windows["block"] = sharding.process_block(mesh)
  train = train_batches(config, text, block=windows["block"])
  # Evaluation takes the parts' size, for memory; the set is that of whole batches all the same.
  val = data.eval_batches(
    text.val,
    batch_size=rows // parts,
    num_batches=config.train.eval_batches * parts,
    **windows,
  )

  model = models.make_model(config.model, vocab_size=text.tokenizer.vocab_size)
  abstract = abstract_state(model, optimizer, mesh=mesh, preset=config.mesh.preset, length=length)
  return Task(mesh, text, train, val, model, optimizer, schedule, abstract)


def train_batches(config: Any, text: data.TextData, block: tuple[int, int] = (0, 1)) -> Any:
  """The endless training batches of `config.seed`; `[s]` makes step s + 1.

  Args:
    config: of a run.
    text: that it is trained on.
    block: of every batch only the i-th of `count` blocks of rows; the whole by default.
  """
  return data.train_batches(
    text.train,
    batch_size=config.train.batch_size,
    seed=config.seed,
    length=config.data.length,
    document_mask=config.data.document_mask,
    block=block,
  )


def open_text(config: Any, log: Callable[[str], None] = print) -> data.TextData:
  """The text that the group `data` of a config names; prepared first, if that is still to do.

  Raises:
    UserError: whatever is wrong with the text or the tokenizer.
  """
  return data.load_text(
    config.name,
    files=config.files,
    field=config.field,
    tokenizer=config.tokenizer,
    data_dir=config.dir,
    val_fraction=config.val_fraction,
    length=config.length,
    log=log,
  )
