"""Functions that open a finished or interrupted run, to sample, analyse or evaluate it."""

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes, models
from hc_jax import config as config_lib
from hc_jax.config_keys import arguments
from hc_jax.errors import UserError, named
from hc_jax.runs import checkpoint, restore
from hc_jax.runs.errors import storage
from hc_jax.runs.tokenizer import open_tokenizer
from hc_jax.runs.workdir import saved_config, saved_description
from hc_jax.sample import continue_text
from hc_jax.step.task import Task

# Most bytes that a window may take: per parameter, and for the smallest model. A config that needs
# more was probably not written for this checkpoint.
_PER_PARAMETER, _SMALL = 400, 4 << 30
_POSITIONS = 1 << 20  # upper bound for sizes that no parameter has, such as max_length


@dataclasses.dataclass(frozen=True)
class Run:
  """Opened run of a language model.

  Attributes:
    config: resolved config of the run.
    model: model of the config, a `TransformerLM`.
    params: float32 parameters, on this process's first device.
    tokenizer: tokenizer, from the run's own copy.
    step: step of the checkpoint.
    card: description stored with the checkpoint.
    workdir: folder of the run.
  """

  config: Any
  model: nn.Module
  params: Any
  tokenizer: Any
  step: int
  card: dict[str, Any]
  workdir: str

  def sample(
    self,
    prompt: str = "",
    *,
    tokens: int = 200,
    samples: int = 1,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> list[str]:
    """Samples continuations of a prompt from the model.

    Args:
      prompt: text to continue.
      tokens: largest number of tokens to sample; a sample ends earlier at the end of its document.
      samples: number of continuations.
      temperature: as in `hc_jax.sample.generate`.
      top_k: as in `hc_jax.sample.generate`.
      top_p: as in `hc_jax.sample.generate`.
      seed: seed of the sampling.

    Returns:
      Texts that begin with the prompt, one for each continuation.

    Raises:
      UserError: an argument is out of range, or the prompt does not fit; see
        `hc_jax.sample.continue_text`.
    """
    draw = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    model = (self.model, self.params, self.tokenizer)
    steps = continue_text(*model, prompt, tokens, samples=samples, seed=seed, **draw)
    *_, texts = [[]] * samples, *steps
    return [self.tokenizer.extend(prompt, text) for text in texts]


@dataclasses.dataclass(frozen=True)
class TaskRun:
  """Opened run of any task.

  Attributes:
    task: task of the run, from the caller.
    variables: "params" and the other collections, on this process's first device.
    step: step of the checkpoint.
    card: description stored with the checkpoint.
    workdir: folder of the run.
  """

  task: Task
  variables: Any
  step: int
  card: dict[str, Any]
  workdir: str


def load_task_run(
  workdir: str,
  task: Task,
  step: int | str | None = None,
  log: Callable[[str], None] | None = None,
) -> TaskRun:
  """Opens a run of any task.

  Args:
    workdir: folder of the run.
    task: task that was trained. It comes from the caller, because a run never names code to import.
    step: as in `load_run`.
    log: as in `load_run`.

  Raises:
    UserError: the folder holds no run or the run of another task, it has no checkpoint of `step`,
      or every candidate is damaged.
    StorageError: a checkpoint cannot be read.
  """
  workdir = os.path.abspath(os.path.expanduser(workdir))
  saved = saved_description(workdir)
  if saved.task != task.name:
    raise UserError(
      f"{workdir} holds a run of the task {saved.task!r}, but Task.name is {task.name!r}; give the "
      "task that was trained"
    )
  chosen = choose_checkpoint(workdir, step, log or functools.partial(print, file=sys.stderr))
  boxed = dict(jax.eval_shape(task.init, jax.random.key(0)))
  target = restore.local_target(axes.unboxed(boxed))
  params = restore.read_params(workdir, chosen, target.pop("params"))
  rest = restore.read_collections(workdir, chosen, target)
  card = checkpoint.read_card(workdir, chosen)
  return TaskRun(task, {"params": params, **rest}, chosen, card, workdir)


def load_run(
  workdir: str, step: int | str | None = None, log: Callable[[str], None] | None = None
) -> Run:
  """Opens a run of a language model, without its training data and mesh; runs no code from it.

  Args:
    workdir: folder of the run.
    step: step of the checkpoint. None takes the newest, "best" the one with the lowest val/loss;
      both skip a checkpoint that does not match its manifest.
    log: called with a line for each checkpoint that is skipped; None prints it to stderr.

  Raises:
    UserError: the folder holds no run of a language model, it has no checkpoint of `step`, or
      every candidate is damaged.
    StorageError: a checkpoint cannot be read.
  """
  workdir = os.path.abspath(os.path.expanduser(workdir))
  config = saved_config(workdir)
  config_lib.check(config)
  chosen = choose_checkpoint(workdir, step, log or functools.partial(print, file=sys.stderr))
  with named(arguments()):
    tokenizer = open_tokenizer(workdir, config.data.tokenizer)
  model = models.make_model(config.model, vocab_size=tokenizer.vocab_size)
  _check_sizes(config, restore.stored_shapes(checkpoint.path_of(workdir, chosen, "params")))
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  boxed = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  target = restore.local_target(axes.unboxed(boxed))
  params = restore.read_params(workdir, chosen, target)
  card = checkpoint.read_card(workdir, chosen)
  return Run(config, model, params, tokenizer, chosen, card, workdir)


def _check_sizes(config: Any, shapes: Any) -> None:
  """Refuses a config that describes a much larger model than the checkpoint holds.

  A run's folder may come from a stranger, and building a huge model would exhaust memory.

  Raises:
    UserError: a size exceeds the number of parameters, an unrolled model has more layers than the
      checkpoint has arrays, or a window needs too much memory.
  """
  leaves = jax.tree.leaves(shapes)
  count = sum(math.prod(leaf.shape) for leaf in leaves)
  largest = max((size for leaf in leaves for size in leaf.shape), default=1)
  model, fields = config.model, config.model.connection
  sizes = {f"model.{key}": (value, max(count, _POSITIONS)) for key, value in model.items()}
  sizes |= {f"model.connection.{key}": (value, largest) for key, value in fields.items()}
  sizes["data.length"] = (config.data.length, _POSITIONS)
  sizes["train.batch_size"] = (config.train.batch_size, _POSITIONS)
  sizes["model.num_layers"] = (model.num_layers, count if model.scan else len(leaves))
  for key, (value, most) in sizes.items():
    if type(value) is int and value > most:
      raise UserError(f"{key}={value} does not fit a checkpoint of {count:,} parameters")
  # Bytes in float32: the key-value cache of sampling, and the attention scores of one window.
  cache = 8 * model.num_layers * model.max_length * model.d_model
  scores = 4 * model.num_heads * config.data.length**2
  for key, needed in (("model.max_length", cache), ("data.length", scores)):
    if needed > _PER_PARAMETER * count + _SMALL:
      raise UserError(
        f"{key} makes a model of {count:,} parameters take {needed:,} bytes; this config does "
        "not belong to this checkpoint"
      )


def choose_checkpoint(workdir: str, step: int | str | None, log: Callable[[str], None]) -> int:
  """Returns the step of the checkpoint to read: the first undamaged candidate for `step`.

  Args:
    workdir: folder of the run.
    step: as in `load_run`.
    log: called with a line for each checkpoint that is skipped.

  Raises:
    UserError: the run has no candidate, or all are damaged.
  """
  steps = checkpoint.folders_of(workdir)
  if not steps:
    raise UserError(
      f"{workdir} holds no checkpoint yet; hc-jax train CONFIG --workdir={workdir} writes one"
    )
  there = ", ".join(map(str, steps))
  if step == "best":
    order = checkpoint.by_loss(workdir)
  else:
    order = steps[::-1] if step is None else [s for s in steps if s == step]
  if not order:
    missing = "that was evaluated" if step == "best" else step
    raise UserError(f"{workdir} holds no checkpoint {missing}; there are {there}")
  with storage(workdir):
    good, faults = restore.first_good(workdir, order)
  if good is None:
    reasons = "; ".join(f"{bad}: {reason}" for bad, reason in faults.items())
    raise UserError(f"no good checkpoint in {workdir} ({reasons}); there are {there}")
  for bad, reason in faults.items():
    log(f"checkpoint {bad} is passed over: {reason}")
  return good
