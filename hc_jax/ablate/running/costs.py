"""What an arm costs: parameters, FLOPs, memory."""

import functools
from typing import Any

import jax

from hc_jax import sharding
from hc_jax.params import param_count
from hc_jax.plan import count_flops
from hc_jax.step.feed import to_devices
from hc_jax.step.step import jit_train_step, train_step
from hc_jax.train.compilation import compiler_options, step_keywords
from hc_jax.train.task import Task

FLOPS_OF = (
  "counted by `hc_jax.plan` in the program of one training step (forward, backward, optimizer) "
  "before XLA optimises it, nothing computed twice"
)


def model_costs(task: Task, config: Any) -> dict[str, Any]:
  """Counts of one run that follow from its config.

  Returns:
    `params`, `connection_params`, and `flops_per_token` of training.
  """
  count = param_count(task.abstract.params)
  tokens = config.train.batch_size * config.data.length
  return {
    "params": count.total,
    "connection_params": count.connection,
    "flops_per_token": _step_flops(task, config) / tokens,
  }


def _step_flops(task: Task, config: Any) -> int:
  """Returns the FLOPs of a training step, without what rematerialisation computes again."""
  length, rows = config.data.length, config.train.batch_size
  batch = {
    name: jax.ShapeDtypeStruct((rows, length), value.dtype)
    for name, value in task.val[0].items()
    if name in ("inputs", "targets", "mask", "segment_ids")
  }
  model = task.model.clone(remat="none")
  step = functools.partial(
    train_step, model=model, optimizer=task.optimizer, schedule=task.schedule
  )
  with sharding.use_mesh(task.mesh, config.mesh.preset):
    return count_flops(step, task.abstract, batch)


def single_memory(task: Task, config: Any) -> int:
  """`memory_bytes` of the ordinary trainer's step, of one device."""
  with sharding.use_mesh(task.mesh, config.mesh.preset):
    keywords = step_keywords(config, task)
    step = jit_train_step(task.abstract, donate=not config.train.debug_nans, **keywords)
    lowered = step.lower(task.abstract, to_devices(task.train[0], task.mesh))
  device = task.mesh.devices.flat[0]
  return memory_bytes(
    lowered.compile(compiler_options(config.train.deterministic, device.platform))
  )


def memory_bytes(compiled: Any) -> int | None:
  """Bytes of a compiled program while it runs, arguments included, as XLA planned them."""
  found = compiled.memory_analysis()
  if found is None:
    return None
  return int(
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
    + found.temp_size_in_bytes
  )
