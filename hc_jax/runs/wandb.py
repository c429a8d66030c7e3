"""Weights & Biases as a tracker: `train.trackers=hc_jax.runs.wandb:tracker`."""

import os
import secrets
from typing import Any

from hc_jax import durable, folders
from hc_jax.errors import UserError
from hc_jax.runs.workdir import TRACKERS

_FILE = f"{TRACKERS}/wandb"


class WandB:
  """Tracker of a W&B run; it logs the numbers of a step as one row, once the next step begins."""

  def __init__(self, run: Any) -> None:
    self._run, self._row = run, {}
    # W&B's own step counter would refuse the steps that a resumed run takes again.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")

  def log_scalar(self, event: str, value: float, **kwargs: Any) -> None:
    if self._row and self._row["step"] != kwargs["step"]:
      self._flush()
    self._row |= {"step": kwargs["step"], event: value}

  def _flush(self) -> None:
    row, self._row = self._row, {}
    if row:
      self._run.log(row)

  def close(self) -> None:
    self._flush()
    self._run.finish()


def tracker(workdir: str, config: dict[str, Any]) -> WandB:
  """Opens a W&B run, by an id that the workdir keeps so that a resumed run continues the same one.

  W&B's own environment variables (WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, ...) choose the project.

  Raises:
    UserError: wandb is not installed, or the id in the workdir is malformed.
  """
  try:
    import wandb
  except ModuleNotFoundError as error:
    raise UserError(
      "wandb is not installed; pip install wandb, or leave the tracker out"
    ) from error
  try:
    name = folders.read_bytes(workdir, _FILE, 16).decode("ascii", "replace")
  except FileNotFoundError:
    name = secrets.token_hex(8)
    folders.make_folder(workdir, TRACKERS)
    durable.write_atomically(os.path.join(workdir, _FILE), name, workdir)
  if len(name) != 16 or set(name) - set("0123456789abcdef"):
    path = os.path.join(workdir, _FILE)
    raise UserError(f"{path} is not an id of 16 hexadecimal digits; remove it to begin a new run")
  title = os.path.basename(workdir)
  return WandB(
    wandb.init(id=name, resume="allow", name=title, config=config, allow_val_change=True)
  )
