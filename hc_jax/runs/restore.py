"""Checkpoints read back, onto any mesh: the newest one that is as it was written."""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from hc_jax import folders
from hc_jax import params as hc_params
from hc_jax.errors import UserError
from hc_jax.processes import cluster
from hc_jax.runs import manifest
from hc_jax.runs.checkpoint import CONVENTIONS, FOLDER, folders_of, path_of, read_card, rest_of
from hc_jax.runs.errors import storage_cause
from hc_jax.runs.quiet import Quiet
from hc_jax.step.state import TrainState

REJECTED = "rejected"
_METADATA_BYTES = 64 << 20  # of a JSON file that describes an item; about 500 for each array
# Arrays may be this much larger than their files: weights hardly compress, zeros do.
_INFLATION, _SMALL = 100, 256 << 20


def restore_newest(
  workdir: str, target: TrainState, log: Callable[[str], None] = print
) -> tuple[TrainState, dict[str, Any]] | None:
  """State and card of the newest good checkpoint, or None when there is none to go on from.

  Good is what agrees with its manifest; the others are named with the reason, a line each, and
  moved aside, to `rejected/`, once an older one is known to be good; the steps after that are taken
  again. A single one without a manifest is a run's first save, interrupted: the run begins anew.

  Args:
    workdir: of the run.
    target: of `abstract_state`; its shardings need not be those that the checkpoint was saved with.
    log: takes lines.

  Raises:
    UserError: there are checkpoints and none is good, or a good one does not fit.
    OSError, ValueError: the system cannot read a file.
  """
  good, faults = None, {}
  with cluster.together():
    if cluster.is_main():  # one process reads the files to hash them
      good, faults = _choose(workdir, log)
  chosen = cluster.gather("" if good is None else str(good))[0]
  good = int(chosen) if chosen else None
  state = None if good is None else _restore(workdir, good, target)
  for step in faults:
    log(f"checkpoint {step} is moved to {_set_aside(workdir, step)}")
  return None if good is None else (state, read_card(workdir, good))


def _choose(workdir: str, log: Callable[[str], None]) -> tuple[int | None, dict[int, str]]:
  """The checkpoint to go on from, if there is one, and what is wrong with newer ones."""
  steps = folders_of(workdir)
  good, faults = first_good(workdir, reversed(steps))
  for step, reason in faults.items():
    log(f"checkpoint {step} is passed over: {reason}")
  first_save = len(steps) == 1 and not manifest.exists(path_of(workdir, steps[0]))
  if good is None and faults and not first_save:
    raise UserError(
      f"none of the checkpoints in {os.path.join(workdir, FOLDER)} is good: "
      + "; ".join(f"{step}: {reason}" for step, reason in faults.items())
      + ". Restore the folder from a copy, or start again with another `workdir`"
    )
  return good, faults


def first_good(workdir: str, steps: Iterable[int]) -> tuple[int | None, dict[int, str]]:
  """The first of `steps` that agrees with its manifest, and what is wrong with those before it.

  Reads the checkpoint's files once, to hash them.
  """
  faults: dict[int, str] = {}
  for step in steps:
    reason = manifest.fault(path_of(workdir, step), step)
    if reason is None:
      return step, faults
    faults[step] = reason
  return None, faults


def _restore(workdir: str, step: int, target: TrainState) -> TrainState:
  params = read_params(workdir, step, target.params)
  collections = read_collections(workdir, step, target.collections)
  return TrainState(params=params, **read_rest(workdir, step, target), collections=collections)


def read_params(workdir: str, step: int, target: Any) -> Any:
  """The parameters alone, placed as `target` (a tree of ShapeDtypeStructs with shardings) says.

  Raises:
    UserError: as `check_params`, or they were written by another version.
  """
  check_params(workdir, step, target)
  return _read(workdir, step, "params", target)


def check_params(workdir: str, step: int, target: Any) -> None:
  """Refuses parameters that do not fit `target`; reads no array.

  Raises:
    UserError: they are of another orientation by their card or their shapes, or not of the names
      and shapes of `target`.
  """
  conventions = read_card(workdir, step)["conventions"]
  orientation = conventions.get("orientation", CONVENTIONS["orientation"])
  path = path_of(workdir, step, "params")
  if orientation != CONVENTIONS["orientation"]:
    raise UserError(
      f"the card of {path} says that its maps are {orientation!r}; this version reads "
      f"{CONVENTIONS['orientation']!r}. Convert the parameters, or read them with the version that "
      "wrote them"
    )
  try:
    hc_params.check_shapes(stored_shapes(path), target)
  except ValueError as error:
    raise UserError(f"{path} is as it was written, but does not fit this model: {error}") from error


def read_collections(workdir: str, step: int, target: Any) -> Any:
  """Returns the variables that are not trained, placed as `target` says; {} where it has none.

  Raises:
    UserError: they are not of the names and shapes of `target`.
  """
  check_collections(workdir, step, target)
  return _read(workdir, step, "collections", target) if target else {}


def check_collections(workdir: str, step: int, target: Any) -> None:
  """Refuses variables that are not trained and do not fit `target`; reads no array.

  Raises:
    UserError: they are not of the names and shapes of `target`.
  """
  path = path_of(workdir, step, "collections")
  stored = stored_shapes(path) if os.path.isdir(path) else {}
  found, wanted = ({n: a.shape for n, a in hc_params.named_leaves(t)} for t in (stored, target))
  if other := sorted(set(found.items()) ^ set(wanted.items())):
    name = other[0][0]
    raise UserError(
      f"{path} does not fit this task: {name} is {found.get(name, 'missing')} there, and "
      f"{wanted.get(name, 'unknown')} here; train the task that the run was begun with"
    )


def read_rest(workdir: str, step: int, target: TrainState) -> dict[str, Any]:
  """Returns optimizer state, step and rng, placed as `target` says.

  Raises:
    UserError: as `check_rest`, or they were written by another version.
  """
  check_rest(workdir, step, target)
  return _read(workdir, step, "train", rest_of(target))


def check_rest(workdir: str, step: int, target: TrainState) -> None:
  """Refuses an optimizer state that is not of the names and shapes of `target`; reads no array.

  Raises:
    UserError: it belongs to another optimizer.
  """
  path = path_of(workdir, step, "train")
  trees = (stored_shapes(path), rest_of(target))
  found, wanted = ({n: a.shape for n, a in hc_params.named_leaves(tree)} for tree in trees)
  if other := sorted(set(found.items()) ^ set(wanted.items())):
    name = other[0][0]
    raise UserError(
      f"{path} holds the state of another optimizer: {name} is {found.get(name, 'missing')} there, "
      f"and {wanted.get(name, 'unknown')} here. Take that run's optimizer, with its "
      "`clip_norm`, or leave the optimizer state out"
    )


def stored_shapes(path: str) -> Any:
  """Returns names, shapes and dtypes of the arrays in an item of a checkpoint; reads no array.

  Raises:
    UserError: they are not described as hc_jax does, or larger than the files there can hold.
  """
  for name in folders.files_below(path):
    if name in ("_METADATA", "_sharding") or name.startswith("array_metadatas/"):
      with _understood(path):
        folders.read_json(path, name, _METADATA_BYTES)
  with _understood(path), Quiet(), ocp.StandardCheckpointer() as reader:
    found = reader.metadata(epath.Path(path)).item_metadata
    found = getattr(found, "tree", found)  # older versions of Orbax give the tree itself
    if not jax.tree.leaves(found):  # Orbax gives None for what it does not understand
      raise UserError(f"{path} describes no arrays that this version of the packages can read")
    _check_sizes(path, found)
  return found


def _check_sizes(path: str, shapes: Any) -> None:
  """Refuses arrays, or chunks of them, that would take far more memory than their files hold."""
  total = 0
  for name, leaf in hc_params.named_leaves(shapes):
    size = math.prod(leaf.shape) * leaf.dtype.itemsize
    total += size
    chunk = math.prod(leaf.storage.chunk_shape or ()) if leaf.storage else 1
    if chunk * leaf.dtype.itemsize > 2 * size + _SMALL:
      raise UserError(f"{path}: the chunks of {name} are larger than it is")
  stored = sum(os.lstat(os.path.join(path, name)).st_size for name in folders.files_below(path))
  if total > _INFLATION * stored + _SMALL:
    raise UserError(
      f"{path} describes arrays of {total:,} bytes, and its files have {stored:,}; it was not "
      "written by hc_jax"
    )


@contextlib.contextmanager
def _understood(path: str) -> Iterator[None]:
  """Turns whatever odd metadata makes Orbax raise into a UserError.

  Storage and memory that fail pass unchanged.
  """
  try:
    yield
  except (UserError, OSError, MemoryError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:
    if storage_cause(error):
      raise
    reason = (str(error).strip().splitlines() or [""])[0].split(" See full TensorStore")[0]
    raise UserError(
      f"{path} is as it was written, but does not fit this model or this version of the packages "
      f"({type(error).__name__}: {reason[:200]}); its card names the versions"
    ) from error


def _read(workdir: str, step: int, item: str, target: Any) -> Any:
  path = path_of(workdir, step, item)
  stored_shapes(path)
  with _understood(path), Quiet(), ocp.StandardCheckpointer() as reader:
    return reader.restore(epath.Path(path), target)


def _set_aside(workdir: str, step: int) -> str:
  folders.make_folder(workdir, REJECTED)
  for i in range(1000):
    place = os.path.join(workdir, REJECTED, f"{step}" + (f"-{i}" if i else ""))
    if not os.path.lexists(place):
      os.rename(path_of(workdir, step), place)
      return place
  raise UserError(f"{os.path.join(workdir, REJECTED)} is full of damaged checkpoints; empty it")


def local_target(abstract: Any) -> Any:
  """A tree of shapes, placed on this process's first device: for reading without the run's mesh."""
  where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), abstract
  )
