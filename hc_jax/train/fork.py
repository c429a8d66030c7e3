"""Forks: runs that begin with the weights of another run, and the record of that origin."""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

from hc_jax.errors import UserError
from hc_jax.processes import cluster
from hc_jax.runs import checkpoint, restore
from hc_jax.runs import workdir as workdirs
from hc_jax.runs.workdir import Description
from hc_jax.step.state import TrainState, key_data_of, state_of
from hc_jax.train.program import Program
from hc_jax.train.run import choose_checkpoint


@dataclasses.dataclass(frozen=True)
class Fork:
  """Source of the first weights of a run: a checkpoint of another run.

  Attributes:
    run: workdir of the other run, which is only read.
    step: step of the checkpoint. None is the newest; "best" is the one with the lowest val/loss.
    optimizer: whether to take the optimizer state and the step too. The new run then continues at
      that step; otherwise it begins at step 0 with a new optimizer state and schedule.
  """

  run: str
  step: int | str | None = None
  optimizer: bool = False


def parse_fork(text: str | None, optimizer: bool = False) -> Fork | None:
  """Parses the value of `--fork`: RUN, RUN@STEP or RUN@best.

  Args:
    text: the value; None if the flag was not given.
    optimizer: whether `--fork-optimizer` was given.

  Returns:
    The fork; None if `text` is None.

  Raises:
    UserError: `optimizer` is set and `text` is None.
  """
  if text is None:
    if optimizer:
      raise UserError("`fork_optimizer` needs a run to fork; add `fork=RUN`")
    return None
  run, at, step = text.rpartition("@")
  if not at or not (step == "best" or step.isdecimal()) or os.path.isdir(text):
    return Fork(text, None, optimizer)
  return Fork(run, step if step == "best" else int(step), optimizer)


def settle(
  fork: Fork | None,
  workdir: str,
  description: Description,
  target: TrainState,
  num_steps: int,
  log: Callable[[str], None] = print,
) -> dict[str, Any] | None:
  """Returns the origin of the run in `workdir`, for its card; None if it is not a fork.

  Once the run has a checkpoint, the source is never opened again. Every process must make this
  call.

  Args:
    fork: the fork that the caller asks for, if any.
    workdir: folder claimed for the new run.
    description: task and config of the new run.
    target: shapes of the new run's state, from `abstract_state`.
    num_steps: last step of the new run.
    log: called with a line for each config key that the fork changes.

  Returns:
    `run`, `step`, `optimizer`, and `changed`, a list of lines "key old -> new".

  Raises:
    UserError: the source cannot be read or does not fit, or `workdir` holds a run of another
      origin.
  """
  origin = None
  with cluster.together():
    if cluster.is_main():
      origin = _settle(fork, workdir, description, target, num_steps, log)
  return json.loads(cluster.gather(json.dumps(origin))[0])


def _settle(
  fork: Fork | None,
  workdir: str,
  description: Description,
  target: TrainState,
  num_steps: int,
  log: Callable[[str], None],
) -> dict[str, Any] | None:
  begun = os.path.lexists(os.path.join(workdir, workdirs.CONFIG))
  saved = workdirs.saved_origin(workdir) if begun else None
  has_weights = bool(checkpoint.steps_of(workdir))
  if fork is not None and begun:
    _check_same(fork, saved, workdir)
  if saved and has_weights:
    return saved
  if fork is not None:
    return _open(fork, workdir, description, target, num_steps, log)
  if saved:
    raise UserError(
      f"{workdir} was meant to begin from {saved['run']}@{saved['step']}, but has no checkpoint; "
      "repeat the command with its `fork`, or choose another `workdir`"
    )
  return None


def _check_same(fork: Fork, saved: dict[str, Any] | None, workdir: str) -> None:
  """Refuses a workdir whose run has another origin than `fork`."""
  if saved is None:
    raise UserError(
      f"workdir {workdir} holds a run that was not forked; choose another `workdir`, or leave out "
      "`fork` to resume it"
    )
  asked = {"run": _full(fork.run), "optimizer": fork.optimizer}
  asked |= {"step": fork.step} if isinstance(fork.step, int) else {}
  if other := [key for key in asked if saved[key] != asked[key]]:
    words = "; ".join(f"{key} {saved[key]!r}, not {asked[key]!r}" for key in other)
    raise UserError(
      f"workdir {workdir} holds a fork of another origin ({words}); choose another `workdir`, or "
      "leave out `fork` to resume it"
    )


def _open(
  fork: Fork,
  workdir: str,
  description: Description,
  target: TrainState,
  num_steps: int,
  log: Callable[[str], None],
) -> dict[str, Any]:
  """Checks that the source fits the new run; returns the record of the origin."""
  run = _full(fork.run)
  if os.path.realpath(run) == os.path.realpath(workdir):
    raise UserError(f"`fork={run}` is the workdir itself; choose another `workdir`")
  try:
    source = workdirs.saved_description(run)
    step = choose_checkpoint(run, fork.step, log)
  except OSError as error:
    raise UserError(f"{run} cannot be forked: {error.filename} {error.strerror}") from error
  try:
    restore.check_params(run, step, target.params)
    restore.check_collections(run, step, target.collections)
    if fork.optimizer:
      restore.check_rest(run, step, target)
  except (UserError, OSError) as error:
    raise UserError(f"{run} at step {step} cannot be forked: {error}") from error
  if fork.optimizer and step >= num_steps:
    raise UserError(
      f"`num_steps={num_steps}` is not above step {step}, where the fork begins; "
      "raise it, or leave out `fork_optimizer` to begin at step 0"
    )
  what = "weights and optimizer state" if fork.optimizer else "weights"
  log(f"begins with the {what} of {run} at step {step:,}")
  changed = list(workdirs.changes(source.config, description.config).values())
  for line in changed:
    log(f"changed by the fork: {line}")
  return {"run": run, "step": step, "optimizer": fork.optimizer, "changed": changed}


def first_state(origin: dict[str, Any], program: Program) -> TrainState:
  """Returns the first state of a fork: weights of the source, rng of the new run's seed.

  Args:
    origin: record of the source, from `settle`.
    program: program of the new run.

  Raises:
    UserError: the source can no longer be read.
  """
  run, step, target, seed = origin["run"], origin["step"], program.abstract, program.seeds[0]
  params = restore.read_params(run, step, target.params)
  collections = restore.read_collections(run, step, target.collections)
  if not origin["optimizer"]:
    where = {"mesh": program.mesh, "preset": program.preset}
    variables = {"params": params, **collections}
    return state_of(variables, program.optimizer, seed, target, **where)
  rest = restore.read_rest(run, step, target)
  state = TrainState(params=params, **rest, collections=collections)
  return state.replace(rng=key_data_of(seed, target))


def _full(path: str) -> str:
  return os.path.abspath(os.path.expanduser(path))
