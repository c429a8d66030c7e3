"""Checkpoints: written by Orbax in the background, whole or absent.

A checkpoint is a folder `checkpoints/<step>` with several items. They are `params`, `train`
(optimizer state, step, rng), for some tasks `collections`, and `card`, a JSON description of the
run (config, versions, conventions, data). The manifest of all files is written last. The module
`restore` reads checkpoints back.
"""

import contextlib
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp

from hc_jax import folders
from hc_jax.errors import UserError
from hc_jax.processes import cluster
from hc_jax.runs import manifest
from hc_jax.runs.errors import writing
from hc_jax.runs.quiet import Quiet
from hc_jax.runs.workdir import LANGUAGE_MODEL
from hc_jax.step.state import TrainState

FOLDER = "checkpoints"
_CARD_BYTES = 64 << 20  # large, because an ablation's card has the curves of its seeds
Saved = Callable[[int, float, float], None]
CONVENTIONS = {
  "equation": "X' = mix @ X + write @ F(read @ X)",
  "orientation": "read [v, n], write [n, v], mix [n, n]; mix[i, j] carries stream j into stream i",
  "index": "sublayers from 0: attention of block l is 2l, its feed-forward 2l + 1; a parallel "
  "or whole block l is l",
  "layers": "scanned: one tree `layers`, leaves stacked on axis 0; unrolled: layer_0, layer_1, ..."
  "; of segments that differ, in segment_0, segment_1, ..., numbers counting through",
  "step": "optimizer steps taken; batch i of the data makes step i + 1",
  "rng": "key data of the seed; the step after s draws from fold_in(rng, s)",
  "loss": "nats per token",
}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "chex")


def make_card(
  task: str,
  config: Mapping[str, Any],
  identity: Mapping[str, Any],
  origin: dict[str, Any] | None = None,
) -> dict[str, Any]:
  """Returns the description that is stored with every checkpoint of a run, as JSON values.

  Args:
    task: name of the task.
    config: nested groups of JSON values that describe the run.
    identity: facts of the task that must not change when the run is resumed.
    origin: source of the run's weights and the keys that the fork changed, if it is a fork.
  """
  versions = {"python": platform.python_version()}
  for name in _PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      versions[name] = metadata.version(name)
  return {
    "format": "hc_jax checkpoint 1",
    "task": task,
    "config": dict(config),
    "conventions": CONVENTIONS,
    "data": dict(identity),
    "versions": versions,
    **({} if origin is None else {"fork": origin}),
  }


def folders_of(workdir: str) -> list[int]:
  """Returns the steps of all checkpoint folders of a run, ascending, complete or not.

  Raises:
    UserError: `checkpoints` is a link, or not a folder.
    OSError: `checkpoints` cannot be read, so whether there are checkpoints is unknown.
  """
  names = []
  with contextlib.suppress(NotADirectoryError):  # the workdir is a file
    names = folders.list_folder(workdir, FOLDER)
  return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def steps_of(workdir: str) -> list[int]:
  """Returns the steps of the complete checkpoints (which have a manifest) of a run, ascending."""
  return [step for step in folders_of(workdir) if manifest.exists(path_of(workdir, step))]


def best_value(card: Mapping[str, Any]) -> float:
  """Returns the value by which a checkpoint is compared, from its card; lower is better.

  Raises:
    KeyError: the checkpoint was not evaluated.
  """
  return float(card[card.get("best", "val/loss")])


def best_step(workdir: str) -> int | None:
  """Returns the step of the best complete checkpoint; None if none was evaluated."""
  found = by_loss(workdir)
  return found[0] if found else None


def by_loss(workdir: str) -> list[int]:
  """Returns the steps of the complete, evaluated checkpoints, from the best to the worst."""
  found = []
  for step in steps_of(workdir):
    with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError):
      found.append((best_value(read_card(workdir, step)), step))
  return [step for _, step in sorted(found)]


def path_of(workdir: str, step: int, item: str = "") -> str:
  """Returns the path of a checkpoint's folder, or of one of its items."""
  return os.path.join(workdir, FOLDER, str(step), item).rstrip("/")


class Checkpoints:
  """Writer of a run's checkpoints in the background; keeps the last `keep` and the best.

  With several processes, each writes its shards, and process 0 does the rest. Orbax's own manager
  is not used, because it removes old checkpoints before the new one has a manifest.
  """

  def __init__(self, workdir: str, keep: int, saved: Saved = lambda *_: None) -> None:
    """Creates the folder; removes files that a killed save left there.

    Args:
      workdir: folder of the run.
      keep: number of newest complete checkpoints to keep, in addition to the best.
      saved: function called once a checkpoint is durable, in another thread. Its arguments are the
        step, the seconds that the save took, and the seconds that the caller waited for it.
    """
    self._workdir, self._keep, self._saved = workdir, keep, saved
    self._thread: threading.Thread | None = None
    self._error: BaseException | None = None
    self._failed = self._faulty = False
    with writing(os.path.join(workdir, FOLDER)):
      folders.make_folder(workdir, FOLDER)
      if cluster.is_main():
        self._sweep()
    self._quiet = Quiet().install()
    self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

  def save(
    self,
    state: TrainState,
    step: int,
    card: dict[str, Any],
    best: tuple[str, float] | None = None,
  ) -> None:
    """Starts a save, and returns once the caller may change the state. Waits for an earlier save.

    Args:
      state: state after `step` steps.
      step: number of steps taken.
      card: description of the checkpoint, from `make_card`.
      best: name and value by which checkpoints are compared; None if it was not evaluated.

    Raises:
      StorageError: this checkpoint or the one before could not be written.
    """
    self.wait()
    start = time.perf_counter()
    metrics = {} if best is None else {"best": best[0], best[0]: best[1]}
    items = {"params": state.params, "train": rest_of(state)}
    items |= {"collections": state.collections} if state.collections else {}
    with self._writing(step):
      self._writer.save(
        path_of(self._workdir, step),
        args=ocp.args.Composite(
          **{name: ocp.args.StandardSave(item) for name, item in items.items()},
          card=ocp.args.JsonSave({**card, "step": step, **metrics}),
        ),
      )
    times = (start, time.perf_counter())
    self._step = step
    self._thread = threading.Thread(target=self._finish, args=(step, *times), name="checkpoint")
    self._thread.start()

  def _finish(self, step: int, start: float, returned: float) -> None:
    try:
      self._writer.wait_until_finished()
      if not cluster.is_main():
        return  # all arrays are on disk; process 0 adds the manifest
      try:
        manifest.write(path_of(self._workdir, step), step)
      except OSError:
        shutil.rmtree(path_of(self._workdir, step), ignore_errors=True)  # the disk may be full
        raise
      self._saved(step, time.perf_counter() - start, returned - start)
      self._prune()
    except BaseException as error:
      self._error = error

  def _prune(self) -> None:
    """Removes checkpoints that are neither among the newest nor the best."""
    steps = steps_of(self._workdir)
    kept = {*steps[-self._keep :], best_step(self._workdir)}
    for step in folders_of(self._workdir):
      if step not in kept and step < steps[-1]:
        path = path_of(self._workdir, step)
        with contextlib.suppress(FileNotFoundError):
          # First, so that a half-removed folder does not count as a checkpoint.
          os.unlink(os.path.join(path, manifest.FILE))
        shutil.rmtree(path)

  def _sweep(self) -> None:
    """Removes the files that interrupted saves left."""
    folder = os.path.join(self._workdir, FOLDER)
    for name in os.listdir(folder):
      if ocp.utils.TMP_DIR_SUFFIX in name:
        shutil.rmtree(os.path.join(folder, name), ignore_errors=True)

  def wait(self) -> None:
    """Waits until the last save is complete on disk, including its manifest.

    Raises:
      StorageError: the checkpoint could not be written.
    """
    if self._thread is None:
      return
    self._thread.join()
    self._thread, error, self._error = None, self._error, None
    if error is not None:
      with self._writing(self._step):
        raise error

  @contextlib.contextmanager
  def _writing(self, step: int) -> Iterator[None]:
    try:
      with writing(f"checkpoint {step} in {os.path.join(self._workdir, FOLDER)}"):
        yield
    except BaseException:
      self._failed = self._faulty = True
      raise

  def close(self) -> None:
    """Waits for a save that is still running; raises nothing if an earlier error was raised."""
    known = self._failed
    try:
      self.wait()
      self._writer.close()
    except Exception:
      if not known:
        raise
    finally:
      if not self._faulty:  # after a fault, libraries may still log about it later
        self._quiet.remove()

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


def rest_of(state: TrainState) -> dict[str, Any]:
  """Returns the content of the item `train`: a state without its variables."""
  return {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}


def read_card(workdir: str, step: int) -> dict[str, Any]:
  """Reads the card of a checkpoint and checks the types of its parts.

  Raises:
    UserError: the card is damaged, or not a plain file.
    OSError: the card is missing or cannot be read.
  """
  name = f"{FOLDER}/{step}/card/metadata"
  try:
    card = folders.read_json(workdir, name, _CARD_BYTES)
    data = card["data"]
    groups = (card["config"], card["conventions"], data, card["versions"])
    if not all(isinstance(group, dict) for group in groups):
      raise TypeError("a group is missing")
    if card.setdefault("task", LANGUAGE_MODEL) != LANGUAGE_MODEL:
      return card
    kinds = {"fingerprint": str, "tokenizer": str, "vocab_size": int}
    data.setdefault("tokenizer", "")  # cards of ablations had none
    for key, kind in kinds.items():
      if not isinstance(data[key], kind):
        raise TypeError(f"data.{key}={data[key]!r}")
  except (ValueError, KeyError, TypeError) as error:
    path = os.path.join(workdir, name)
    raise UserError(f"{path} is not the card of a checkpoint ({error})") from error
  return card
