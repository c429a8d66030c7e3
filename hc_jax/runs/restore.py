"""Reading of checkpoints, onto any mesh, after comparing them with their manifests."""

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
_METADATA_BYTES = 64 << 20  # largest JSON description of an item; an array takes about 500 bytes
# Arrays may be this many times larger than their files, since zeros compress well.
_INFLATION, _SMALL = 100, 256 << 20


def restore_newest(
  workdir: str, target: TrainState, log: Callable[[str], None] = print
) -> tuple[TrainState, dict[str, Any]] | None:
  """Reads the newest good checkpoint, which is one that matches its manifest.

  Logs the fault of each newer checkpoint. Moves those to `rejected/` once an older one is known to
  be good; the run then takes the steps after that one again. If the only checkpoint has no
  manifest, it is an interrupted first save, and the run begins anew.

  Args:
    workdir: folder of the run.
    target: shapes and shardings of the state, from `abstract_state`. The shardings may differ from
      those at the save.
    log: called with lines for the user.

  Returns:
    State and card; None if the run has no checkpoint yet.

  Raises:
    UserError: all checkpoints are damaged, or the good one does not fit `target`.
    OSError, ValueError: the system cannot read a file.
  """
  good, faults = None, {}
  with cluster.together():
    if cluster.is_main():  # hashing is done once, not by every process
      good, faults = _choose(workdir, log)
  chosen = cluster.gather("" if good is None else str(good))[0]
  good = int(chosen) if chosen else None
  state = None if good is None else _restore(workdir, good, target)
  for step in faults:
    log(f"checkpoint {step} is moved to {_set_aside(workdir, step)}")
  return None if good is None else (state, read_card(workdir, good))


def _choose(workdir: str, log: Callable[[str], None]) -> tuple[int | None, dict[int, str]]:
  """Returns the step to resume from, if any, and the faults of newer checkpoints by step."""
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
  """Returns the first of `steps` that matches its manifest, and the faults of earlier ones.

  Reads all files of each checkpoint that it checks, to hash them.
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
  """Reads the parameters of a checkpoint.

  Args:
    workdir: folder of the run.
    step: step of the checkpoint.
    target: tree of ShapeDtypeStructs with the shardings to place the parameters by.

  Raises:
    UserError: as in `check_params`, or another version wrote the parameters.
  """
  check_params(workdir, step, target)
  return _read(workdir, step, "params", target)


def check_params(workdir: str, step: int, target: Any) -> None:
  """Refuses parameters that do not fit `target`; reads no arrays.

  Raises:
    UserError: names or shapes differ from `target`, or the card or a shape says that maps have
      another orientation than `mix[i, j]`: from stream j to stream i.
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
  """Reads the variables that are not trained, placed by `target`; {} if `target` has none.

  Raises:
    UserError: names or shapes differ from `target`.
  """
  check_collections(workdir, step, target)
  return _read(workdir, step, "collections", target) if target else {}


def check_collections(workdir: str, step: int, target: Any) -> None:
  """Refuses untrained variables that do not fit `target`; reads no arrays.

  Raises:
    UserError: names or shapes differ from `target`.
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
  """Reads optimizer state, step and rng, placed by `target`.

  Raises:
    UserError: as in `check_rest`, or another version wrote them.
  """
  check_rest(workdir, step, target)
  return _read(workdir, step, "train", rest_of(target))


def check_rest(workdir: str, step: int, target: TrainState) -> None:
  """Refuses an optimizer state that does not fit `target`; reads no arrays.

  Raises:
    UserError: names or shapes differ from `target`, so the state belongs to another optimizer.
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
  """Returns names, shapes and dtypes of the arrays in a checkpoint's item; reads no arrays.

  Raises:
    UserError: the description is not of the form that hc_jax writes, or the arrays are too large
      for the item's files.
  """
  for name in folders.files_below(path):
    if name in ("_METADATA", "_sharding") or name.startswith("array_metadatas/"):
      with _understood(path):
        folders.read_json(path, name, _METADATA_BYTES)
  with _understood(path), Quiet(), ocp.StandardCheckpointer() as reader:
    found = reader.metadata(epath.Path(path)).item_metadata
    found = getattr(found, "tree", found)  # older versions of Orbax return the tree itself
    if not jax.tree.leaves(found):  # Orbax returns None for metadata that it cannot parse
      raise UserError(f"{path} describes no arrays that this version of the packages can read")
    _check_sizes(path, found)
  return found


def _check_sizes(path: str, shapes: Any) -> None:
  """Refuses arrays or chunks that would take far more memory than their files on disk."""
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
  """Turns any exception that damaged metadata causes in Orbax into a UserError.

  Failures of storage and memory pass unchanged.
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
  """Returns a tree of shapes placed on this process's first device, to read without a mesh."""
  where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), abstract
  )
