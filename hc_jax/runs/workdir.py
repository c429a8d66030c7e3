"""The folder of a run: claiming it, and its config.

config.json     the resolved config, as of the last start
tokenizer.*     a copy of the tokenizer's file, if it has one
metrics.jsonl   one row per logged step
checkpoints/    one folder per step, whole or absent
rejected/       damaged checkpoints
lock            owner of the folder, while a run is active
trackers/       files that trackers need to resume, such as the id of a run
tensorboard/, profile/
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hc_jax import config as config_lib
from hc_jax import folders
from hc_jax.durable import write_atomically
from hc_jax.errors import UserError
from hc_jax.nearest import nearest
from hc_jax.processes import cluster
from hc_jax.runs import lock, tokenizer
from hc_jax.runs.errors import storage

CONFIG = "config.json"
FORMAT = "hc_jax run 1"
LANGUAGE_MODEL = "language_model"  # the task of a run that names none
# A run's own files and folders. None may be a link, because libraries open some by path.
TRACKERS = "trackers"
FETCHED = "fetched.tmp"  # files from a mirror that are not checked yet
OWN = (CONFIG, "metrics.jsonl", "checkpoints", "rejected", "tensorboard", "profile")
OWN += (TRACKERS, FETCHED)
# Keys that may differ when a run is resumed. They do not change the run's definition, except
# num_steps, from which the schedule is computed (see optim.py). Another mesh, remat or accumulation
# changes rounding, and another accumulation changes the draws of dropout.
MAY_CHANGE = (
  "train.num_steps",
  "train.log_every",
  "train.telemetry_every",
  "train.eval_every",
  "train.checkpoint_every",
  "train.keep",
  "train.mirror",
  "train.trackers",
  "train.profile",
  "train.debug_nans",
  "train.compilation_cache",
  "train.deterministic",
  "train.accumulation",
  "model.remat",
  "mesh.preset",
  "mesh.data",
  "mesh.fsdp",
  "mesh.tensor",
  "data.workers",
  "data.dir",
)


class Description(NamedTuple):
  """Description of a run, which must be the same when the run is resumed, except `MAY_CHANGE`.

  Attributes:
    task: name of the task.
    config: nested groups of JSON values.
  """

  task: str
  config: dict[str, Any]


@contextlib.contextmanager
def open_workdir(
  workdir: str,
  description: Description,
  log: Callable[[str], None] = print,
  fetch: Callable[[str, Description], None] = lambda *_: None,
) -> Iterator[str]:
  """Claims a folder for a run during the context; yields its full path.

  Writes only the lock, and the files that `fetch` brings; `save_config` writes the config.

  Args:
    workdir: a new or empty folder, or the folder of the run to resume.
    description: task and config of the run that starts.
    log: called with lines for the user.
    fetch: function of a mirror, called with the claimed folder and the description before the
      folder is read.

  Raises:
    UserError: the folder cannot be written, holds other files, is in use, or holds a run whose
      config differs in more than `MAY_CHANGE`.
    StorageError: a folder of the run cannot be read.
  """
  if "://" in workdir:
    raise UserError(
      f"workdir {workdir} is not a local path, and metrics and the lock need a file system; "
      "choose a local (or mounted) folder"
    )
  path = os.path.abspath(os.path.expanduser(workdir))
  if not cluster.is_main():  # process 0 claims it for all
    yield path
    return
  _check_contents(path)
  with contextlib.ExitStack() as held:
    held.callback(_remove_empty, _missing(path))  # a start that fails leaves no empty folder
    try:
      os.makedirs(path, exist_ok=True)
      held.enter_context(lock.locked(path, log))
    except OSError as error:
      raise UserError(
        f"workdir {path} cannot be written: {error.strerror}; choose another `workdir`"
      ) from error
    with storage(path):
      folders.check_plain(path, *OWN, *(f"tokenizer{suffix}" for suffix in tokenizer.SUFFIXES))
    fetch(path, description)
    for line in _check_config(path, description):
      log(f"changed since the last start: {line}")
    yield path


def check_shared(path: str) -> None:
  """Refuses, in all processes of a run, a workdir that only some processes see.

  Raises:
    UserError: a process does not see the lock of process 0, so the folder is not shared.
  """
  with cluster.together():
    if not os.path.exists(os.path.join(path, lock.FILE)):
      raise UserError(
        f"workdir {path} is not the folder that process 0 sees on its host; choose a folder on a "
        "file system that all hosts share"
      )


def _remove_empty(folders: list[str]) -> None:
  with contextlib.suppress(OSError):
    for folder in folders:
      os.rmdir(folder)


def _missing(path: str) -> list[str]:
  """Returns `path` and its parent folders that do not exist yet, the innermost first."""
  found = []
  while not os.path.exists(path):
    found.append(path)
    path = os.path.dirname(path)
  return found


def _check_contents(path: str) -> None:
  if os.path.exists(path) and not os.path.isdir(path):
    raise UserError(f"workdir {path} is a file; choose a folder for `workdir`")
  if not os.path.isdir(path) or os.path.exists(os.path.join(path, CONFIG)):
    return
  ours = {lock.FILE, CONFIG + ".tmp", FETCHED}  # files that a killed start may leave
  others = sorted(set(os.listdir(path)) - ours)
  if others:
    raise UserError(
      f"workdir {path} holds something else than a run ({', '.join(others[:3])}"
      f"{', ...' if len(others) > 3 else ''}) and no {CONFIG}; choose a new or empty folder"
    )


def saved_description(workdir: str) -> Description:
  """Reads the description of the run in `workdir`.

  The config of a language model gets the keys that are new since the run's version.

  Raises:
    UserError: `workdir` holds no run, or its config.json cannot be read.
  """
  path = os.path.join(workdir, CONFIG)
  with reading(path, f"{workdir} holds no run", "a run's config"):
    saved = read_format(workdir, CONFIG, FORMAT)
    task, config = saved.get("task", LANGUAGE_MODEL), saved["config"]
    if not isinstance(task, str) or not isinstance(config, dict):
      raise TypeError("task is not text, or config not a group")
    if task == LANGUAGE_MODEL:  # checks the types, and adds keys that are new since then
      config = config_lib.to_json(config_lib.from_json(config))
  return Description(task, config)


def saved_config(workdir: str) -> Any:
  """Reads the config of the language model in `workdir`.

  Raises:
    UserError: `workdir` holds no run, its config cannot be read, or the run trains another task.
  """
  description = saved_description(workdir)
  if description.task != LANGUAGE_MODEL:
    raise UserError(
      f"{workdir} trains the task {description.task!r} and not a language model; `hc-jax inspect` "
      "shows it, `hc-jax eval --task=module:function` evaluates it with the task that the function "
      "returns, and hc_jax.train.load_task_run opens it"
    )
  return config_lib.from_json(description.config)


@contextlib.contextmanager
def reading(path: str, absent: str, kind: str) -> Iterator[None]:
  """Turns a fault of reading a JSON file in the context into a UserError with the reason."""
  try:
    yield
  except FileNotFoundError as error:
    raise UserError(f"{absent}: {_not_there(path)}") from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} cannot be read as {kind} ({error})") from error


def _not_there(path: str) -> str:
  """Says which part of a path does not exist: the file, or its folder."""
  folder = os.path.dirname(os.path.abspath(path))
  beside = os.path.dirname(folder)
  if os.path.isdir(folder) or not os.path.isdir(beside):
    return f"there is no {path}"
  near = nearest(os.path.basename(folder), os.listdir(beside))
  hint = f"; did you mean {os.path.join(beside, near)}?" if near else ""
  return f"there is no such folder{hint}"


def read_format(folder: str, name: str, form: str) -> dict[str, Any]:
  """Returns the JSON object in a file, whose entry `format` must be `form`.

  Raises:
    UserError: the file has another format, or is not a plain file inside `folder`.
    OSError, ValueError, KeyError, TypeError: the file cannot be read, or is not such an object.
  """
  saved = folders.read_json(folder, name)
  if saved["format"] != form:
    path = os.path.join(folder, name)
    raise UserError(f"{path} is of format {saved['format']!r}; this version reads {form!r}")
  return saved


def _check_config(path: str, description: Description) -> list[str]:
  """Returns a line for each allowed difference to the run in the folder; refuses any other."""
  if not os.path.exists(os.path.join(path, CONFIG)):
    return []
  remedy = f"`workdir`, where `fork={path}` begins with the weights of this run,"
  return check_same_run(path, description, f"workdir {path}", remedy)


def check_same_run(folder: str, description: Description, what: str, remedy: str) -> list[str]:
  """Returns a line for each difference to the run in `folder`, and refuses those not allowed.

  Args:
    folder: folder with config.json.
    description: task and config of the run that starts.
    what: name of the folder in messages.
    remedy: name of the setting to change, in messages.

  Raises:
    UserError: the runs differ in more than `MAY_CHANGE`, or config.json cannot be read.
  """
  saved = saved_description(folder)
  if saved.task != description.task:
    raise UserError(
      f"{what} holds a run of the task {saved.task!r}, but this is {description.task!r}; "
      f"choose another {remedy.partition(',')[0]}"
    )
  lines = changes(saved.config, description.config)
  if refused := [line for key, line in lines.items() if key not in MAY_CHANGE]:
    raise UserError(
      f"{what} holds another run (there -> here): {'; '.join(refused)}. Choose another {remedy} or "
      "give the values of the run that is there"
    )
  return list(lines.values())


def changes(before: Any, after: Any) -> dict[str, str]:
  """Returns a line "key old -> new" for each dotted key whose values differ."""
  return {
    key: f"{key} {_value(before, key)!r} -> {_value(after, key)!r}"
    for key in config_lib.diff(before, after)
  }


def _value(config: Any, key: str) -> Any:
  for part in key.split("."):
    config = config.get(part) if hasattr(config, "get") else None
  return config


def saved_origin(workdir: str) -> dict[str, Any] | None:
  """Reads the origin of the run in `workdir`, as `save_config` wrote it; None if it is not a fork.

  Raises:
    UserError: config.json cannot be read.
  """
  path = os.path.join(workdir, CONFIG)
  with reading(path, f"{workdir} holds no run", "a run's config"):
    origin = read_format(workdir, CONFIG, FORMAT).get("fork")
    kinds = {"run": str, "step": int, "optimizer": bool, "changed": list}
    if origin is None:
      return None
    if not isinstance(origin, dict) or {k: type(v) for k, v in origin.items()} != kinds:
      raise TypeError(f"fork={origin!r}")
  return origin


def save_config(
  workdir: str, description: Description, origin: dict[str, Any] | None = None
) -> None:
  """Writes config.json, which makes the folder that of a run.

  Args:
    workdir: folder of the run.
    description: task and config of the run.
    origin: source of the run's weights, as JSON values; None if it is not a fork.

  Raises:
    OSError: the file cannot be written.
  """
  saved = {"format": FORMAT, "task": description.task, "config": description.config}
  saved |= {} if origin is None else {"fork": origin}
  text = json.dumps(saved, indent=2) + "\n"
  write_atomically(os.path.join(workdir, CONFIG), text)
