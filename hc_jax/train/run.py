"""A finished or interrupted run, opened to sample from, analyse or evaluate."""

import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes, data, models
from hc_jax.errors import UserError
from hc_jax.train import checkpoint
from hc_jax.train.workdir import saved_config, tokenizer_copy


@dataclasses.dataclass(frozen=True)
class Run:
  """What lies in a run.

  Attributes:
    config: the resolved config.
    model: of the config.
    params: float32 parameters, on this process's first device.
    tokenizer: the run's own copy.
    step: of the checkpoint.
    card: what stands beside its numbers.
    workdir: the run's folder.
  """

  config: Any
  model: nn.Module
  params: Any
  tokenizer: Any
  step: int
  card: dict[str, Any]
  workdir: str


def load_run(workdir: str, step: int | str | None = None) -> Run:
  """Opens a run; needs neither its training data nor its mesh, and executes nothing from it.

  Args:
    workdir: of the run.
    step: of the checkpoint; None is the newest, "best" the one with the lowest val/loss.

  Raises:
    UserError: no run, no such checkpoint, or a damaged one.
  """
  workdir = os.path.abspath(os.path.expanduser(workdir))
  config = saved_config(workdir)
  steps = checkpoint.steps_of(workdir)
  if not steps:
    raise UserError(f"{workdir} holds no checkpoint yet; train it first")
  chosen = checkpoint.best_step(workdir) if step == "best" else steps[-1] if step is None else step
  if chosen not in steps:
    raise UserError(f"{workdir} holds no checkpoint {step}; there are {', '.join(map(str, steps))}")
  tokenizer = data.load_tokenizer(tokenizer_copy(workdir, config.data.tokenizer))
  model = models.make_model(config.model, vocab_size=tokenizer.vocab_size)
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  boxed = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
  try:
    card = checkpoint.read_card(workdir, chosen)
    target = checkpoint.local_target(axes.unboxed(boxed))
    params = checkpoint.read_params(workdir, chosen, target)
  except Exception as error:  # whatever a damaged file makes of itself
    others = [str(s) for s in steps if s != chosen]
    raise UserError(
      f"checkpoint {chosen} of {workdir} cannot be read ({type(error).__name__}: {error})"
      + (f"; give another step: {', '.join(others)}" if others else "")
    ) from error
  return Run(config, model, params, tokenizer, int(chosen), card, workdir)
