"""Checkpoints: written by Orbax in the background, whole or absent, read back onto any mesh.

A checkpoint is a folder `checkpoints/<step>` of three items: `params`, `train` (optimizer state,
step, rng), and `card`, JSON that says what the numbers are: config, versions, conventions, data.
"""

import contextlib
import json
import logging
import os
import platform
from collections.abc import Callable
from importlib import metadata
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from hc_jax import config as config_lib
from hc_jax.errors import UserError
from hc_jax.train.errors import writing
from hc_jax.train.state import TrainState

FOLDER, REJECTED = "checkpoints", "rejected"
CONVENTIONS = {
  "equation": "X' = mix @ X + write @ F(read @ X)",
  "orientation": "read [v, n], write [n, v], mix [n, n]; mix[i, j] carries stream j into stream i",
  "index": "sublayers from 0: attention of block l is 2l, its feed-forward 2l + 1",
  "layers": "scanned: one tree `layers`, leaves stacked on axis 0; unrolled: layer_0, layer_1, ...",
  "step": "optimizer steps taken; batch i of the data makes step i + 1",
  "rng": "key data of the seed; the step after s draws from fold_in(rng, s)",
  "loss": "nats per token",
}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "chex")


def make_card(config: Any, data: dict[str, Any]) -> dict[str, Any]:
  """What stands beside the numbers of every checkpoint of a run, as JSON values.

  Args:
    config: the resolved config.
    data: `fingerprint`, `tokenizer`, `vocab_size`.
  """
  versions = {"python": platform.python_version()}
  for name in _PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      versions[name] = metadata.version(name)
  return {
    "format": "hc_jax checkpoint 1",
    "config": config_lib.to_json(config),
    "conventions": CONVENTIONS,
    "data": data,
    "versions": versions,
  }


def steps_of(workdir: str) -> list[int]:
  """Steps of the complete checkpoints of a run, ascending: a folder gets its name when whole."""
  folder = os.path.join(workdir, FOLDER)
  names = os.listdir(folder) if os.path.isdir(folder) else []
  return sorted(int(name) for name in names if name.isdecimal())


def best_step(workdir: str) -> int | None:
  """The step of the kept checkpoint with the lowest val/loss; None if none was evaluated."""
  found = []
  for step in steps_of(workdir):
    with contextlib.suppress(OSError, ValueError, KeyError, UserError):
      found.append((read_card(workdir, step)["val/loss"], step))
  return min(found)[1] if found else None


def path_of(workdir: str, step: int, item: str = "") -> str:
  """The folder of a checkpoint, or of one of its items."""
  return os.path.join(workdir, FOLDER, str(step), item).rstrip("/")


class Checkpoints:
  """Saves the state of a run; keeps the last `keep` checkpoints and the best by val/loss."""

  def __init__(self, workdir: str, keep: int) -> None:
    # Orbax explains itself at length, on every save; what goes wrong it raises.
    logging.getLogger("absl").setLevel(logging.ERROR)
    managers = ocp.checkpoint_managers
    self._workdir = workdir
    self._failed = False
    policy = managers.AnyPreservationPolicy(
      [
        managers.LatestN(keep),
        managers.BestN(
          get_metric_fn=lambda metrics: metrics["val/loss"],
          reverse=True,
          n=1,
          keep_checkpoints_without_metrics=False,
        ),
      ]
    )
    with writing(os.path.join(workdir, FOLDER)):
      self._manager = ocp.CheckpointManager(
        os.path.join(workdir, FOLDER),
        options=ocp.CheckpointManagerOptions(
          preservation_policy=policy,
          # The policy decides; only with best_fn are metrics kept for the next process's policy.
          best_fn=lambda metrics: metrics["val/loss"],
          best_mode="min",
          cleanup_tmp_directories=True,
        ),
      )

  def save(
    self, state: TrainState, step: int, card: dict[str, Any], val_loss: float | None = None
  ) -> None:
    """Starts to save; returns when the state may change again. Waits for a save still under way.

    Raises:
      StorageError: this save or the one before could not be written.
    """
    metrics = {} if val_loss is None else {"val/loss": val_loss}
    with self._writing(step):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(state.params),
          train=ocp.args.StandardSave(_rest(state)),
          card=ocp.args.JsonSave({**card, "step": step, **metrics}),
        ),
        metrics=metrics or None,
        force=True,
      )

  def wait(self) -> None:
    """Returns when the last save is whole on disk.

    Raises:
      StorageError: it could not be written.
    """
    with self._writing(None):
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _writing(self, step: int | None) -> Any:
    name = "the last one" if step is None else step
    try:
      with writing(f"checkpoint {name} in {os.path.join(self._workdir, FOLDER)}"):
        yield
    except BaseException:
      self._failed = True
      raise

  def close(self) -> None:
    """Lets a save under way finish. After a failure nothing more is raised."""
    known = self._failed
    try:
      self.wait()
      self._manager.close()
    except Exception:
      if not known:
        raise

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._failed = self._failed or error is not None
    self.close()


def _rest(state: TrainState) -> dict[str, Any]:
  return {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}


def read_card(workdir: str, step: int) -> dict[str, Any]:
  """The card of a checkpoint.

  Raises:
    OSError, ValueError: it is missing or damaged.
  """
  with open(path_of(workdir, step, "card/metadata"), encoding="utf-8") as file:
    return json.load(file)


def read_params(workdir: str, step: int, target: Any) -> Any:
  """The parameters alone, placed as `target` (a tree of ShapeDtypeStructs with shardings) says."""
  return _read(path_of(workdir, step, "params"), target)


def _read(path: str, target: Any) -> Any:
  with ocp.StandardCheckpointer() as reader:
    return reader.restore(epath.Path(path), target)


def restore_newest(
  workdir: str, target: TrainState, log: Callable[[str], None] = print
) -> tuple[TrainState, dict[str, Any]] | None:
  """State and card of the newest checkpoint that can be read, or None when there is none at all.

  A damaged one is reported with the reason and moved aside, to `rejected/`, once an older one is
  known to be good; the steps after that are taken again.

  Args:
    workdir: of the run.
    target: of `abstract_state`; its shardings need not be those that the checkpoint was saved with.
    log: takes lines.

  Raises:
    UserError: there are checkpoints, and none can be read.
  """
  bad: dict[int, str] = {}
  for step in reversed(steps_of(workdir)):
    try:
      card = read_card(workdir, step)
      params = _read(path_of(workdir, step, "params"), target.params)
      rest = _read(path_of(workdir, step, "train"), _rest(target))
      state = TrainState(params=params, **rest)
      if int(state.step) != step or card["step"] != step:
        raise ValueError(f"it says it is of step {int(state.step)}")
    except Exception as error:  # whatever a damaged file makes of itself
      bad[step] = f"{type(error).__name__}: {str(error).strip()[:200]}".splitlines()[0]
      log(f"checkpoint {step} cannot be read ({bad[step]}); trying the one before")
      continue
    for damaged in bad:
      log(f"moved the damaged checkpoint {damaged} to {_set_aside(workdir, damaged)}")
    return state, card
  if bad:
    raise UserError(
      f"none of the checkpoints in {os.path.join(workdir, FOLDER)} can be read: "
      + "; ".join(f"{step}: {reason}" for step, reason in bad.items())
      + ". Restore the folder from a copy, or start again with another --workdir"
    )
  return None


def _set_aside(workdir: str, step: int) -> str:
  os.makedirs(os.path.join(workdir, REJECTED), exist_ok=True)
  for i in range(1000):
    place = os.path.join(workdir, REJECTED, f"{step}" + (f"-{i}" if i else ""))
    if not os.path.exists(place):
      os.rename(path_of(workdir, step), place)
      return place
  raise UserError(f"{os.path.join(workdir, REJECTED)} is full of damaged checkpoints; empty it")


def local_target(abstract: Any) -> Any:
  """A tree of shapes, placed on this process's first device: for reading without the run's mesh."""
  where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), abstract
  )
