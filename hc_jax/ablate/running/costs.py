"""Costs of an arm: parameters, FLOPs, memory."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from hc_jax import models, sharding
from hc_jax.params import param_count
from hc_jax.plan import count_flops
from hc_jax.step.loss import token_loss
from hc_jax.train.program import Program, jit_step, memory_bytes

FLOPS_OF = (
  "counted by `hc_jax.plan` in the program of one training step (forward, backward, optimizer), "
  "before XLA optimises it and without rematerialisation"
)


def model_costs(program: Program, config: Any) -> dict[str, Any]:
  """Counts parameters and FLOPs of one run of a language model.

  Args:
    program: program of the runs.
    config: config of one run.

  Returns:
    `params`, `connection_params`, and `flops_per_token` (training).
  """
  model = models.make_model(config.model, vocab_size=program.task.identity["vocab_size"])
  task = dataclasses.replace(program.task, loss=token_loss(model.clone(remat="none")))
  settings = dataclasses.replace(program.settings, accumulation=1, debug_nans=False)
  one = dataclasses.replace(program, task=task, settings=settings, together=False)
  count = param_count(one.abstract.params)
  tokens = program.task.units_per_step
  return {
    "params": count.total,
    "connection_params": count.connection,
    "flops_per_token": step_flops(one) / tokens,
  }


def step_flops(program: Program) -> int:
  """Returns the FLOPs of one training step of one run."""
  first = program.task.train(program.seeds[0])[0]
  rows = jax.process_count()
  batch = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((rows * leaf.shape[0], *leaf.shape[1:]), leaf.dtype), first
  )
  end = jax.ShapeDtypeStruct((), jnp.int32)
  with sharding.use_mesh(program.mesh, program.preset):
    return count_flops(jit_step(program), program.abstract, batch, end)


def single_memory(program: Program) -> int | None:
  """Compiles the training step of a single run and returns its `memory_bytes` on one device."""
  with sharding.use_mesh(program.mesh, program.preset):
    batch = next(program.batches(0, 0))
    end = jax.ShapeDtypeStruct((), jnp.int32)
    lowered = jit_step(program).lower(program.abstract, batch, end)
    return memory_bytes(lowered.compile(program.compiler_options))
