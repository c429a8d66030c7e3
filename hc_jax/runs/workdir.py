"""The folder of a run: whose it is, what config it has, and how files in it are written.

config.json     the resolved config, as of the last start
tokenizer.*     a copy of the tokenizer's file, when it is one
metrics.jsonl   one row per step that was logged
checkpoints/    one folder per step, whole or absent
rejected/       checkpoints that were found damaged
lock            while a run is under way: whose
trackers/       what trackers keep to go on from, such as the id of a run
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
# A run's own files and folders. Libraries open some of them by path, so none may be a link.
TRACKERS = "trackers"
FETCHED = "fetched.tmp"  # where what a mirror sent is looked at, before it is the run's
OWN = (CONFIG, "metrics.jsonl", "checkpoints", "rejected", "tensorboard", "profile")
OWN += (TRACKERS, FETCHED)
# What may differ when a run is resumed. None of it changes what a step computes, but num_steps:
# the schedule is a function of the config at hand (see optim.py); mesh, remat and accumulation
# round otherwise, and with accumulation dropout draws otherwise.
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
  """What a run is: it does not change when the run is resumed, except for `MAY_CHANGE`.

  Attributes:
    task: name of its task.
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
  """Claims a folder for a run, for as long as it is entered; yields its full path.

  Only the lock is written, and what `fetch` brings: `save_config` makes it the folder of a run.

  Args:
    workdir: a new or empty folder, or that of the run to resume.
    description: what the run is.
    log: takes lines.
    fetch: called with the claimed folder and the description, before the folder is read: a
      mirror's.

  Raises:
    UserError: the folder cannot be written, holds something else, is in use, or holds a run whose
      config differs in more than `MAY_CHANGE`.
    StorageError: a folder of the run cannot be read.
  """
  if "://" in workdir:
    raise UserError(
      f"workdir {workdir} is no local path: metrics and the lock need a file system; "
      "train into a local (or mounted) folder"
    )
  path = os.path.abspath(os.path.expanduser(workdir))
  if not cluster.is_main():  # the first process claims it for all
    yield path
    return
  _check_contents(path)
  with contextlib.ExitStack() as held:
    held.callback(_remove_empty, _missing(path))  # a start that came to nothing leaves nothing
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
  """Refuses, in all processes of a run, a workdir that not all of them see.

  Raises:
    UserError: it lies on a disk of one host alone.
  """
  with cluster.together():
    if not os.path.exists(os.path.join(path, lock.FILE)):
      raise UserError(
        f"workdir {path} is not the folder that process 0 sees on its host; with several hosts it "
        "must lie on a file system that all of them share"
      )


def _remove_empty(folders: list[str]) -> None:
  with contextlib.suppress(OSError):
    for folder in folders:
      os.rmdir(folder)


def _missing(path: str) -> list[str]:
  """`path` and the folders above it that are not there yet, the innermost first."""
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
  ours = {lock.FILE, CONFIG + ".tmp", FETCHED}  # what a start that was killed may leave
  others = sorted(set(os.listdir(path)) - ours)
  if others:
    raise UserError(
      f"workdir {path} holds something else than a run ({', '.join(others[:3])}"
      f"{', ...' if len(others) > 3 else ''}) and no {CONFIG}; choose a new or empty folder"
    )


def saved_description(workdir: str) -> Description:
  """Returns what the run in `workdir` is; its config's keys are those of its version.

  Raises:
    UserError: no run lies there, or its config.json cannot be read.
  """
  path = os.path.join(workdir, CONFIG)
  with reading(path, f"{workdir} holds no run", "a run's config"):
    saved = read_format(workdir, CONFIG, FORMAT)
    task, config = saved.get("task", LANGUAGE_MODEL), saved["config"]
    if not isinstance(task, str) or not isinstance(config, dict):
      raise TypeError("task is not text, or config not a group")
    if task == LANGUAGE_MODEL:  # types are checked, and keys that are new since then added
      config = config_lib.to_json(config_lib.from_json(config))
  return Description(task, config)


def saved_config(workdir: str) -> Any:
  """Returns the config of the language model that is trained in `workdir`.

  Raises:
    UserError: no run lies there, its config cannot be read, or it trains another task.
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
  """Says why a JSON file of ours cannot be read: that it is not there, or no `kind`."""
  try:
    yield
  except FileNotFoundError as error:
    raise UserError(f"{absent}: {_not_there(path)}") from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} cannot be read as {kind} ({error})") from error


def _not_there(path: str) -> str:
  """What of a path is not there: the file, or its folder already."""
  folder = os.path.dirname(os.path.abspath(path))
  beside = os.path.dirname(folder)
  if os.path.isdir(folder) or not os.path.isdir(beside):
    return f"there is no {path}"
  near = nearest(os.path.basename(folder), os.listdir(beside))
  hint = f"; did you mean {os.path.join(beside, near)}?" if near else ""
  return f"there is no such folder{hint}"


def read_format(folder: str, name: str, form: str) -> dict[str, Any]:
  """Returns the JSON object in a file of ours, whose `format` must be `form`.

  Raises:
    UserError: it has another format, or is not a plain file inside `folder`.
    OSError, ValueError, KeyError, TypeError: it cannot be read, or is something else.
  """
  saved = folders.read_json(folder, name)
  if saved["format"] != form:
    path = os.path.join(folder, name)
    raise UserError(f"{path} is of format {saved['format']!r}; this version reads {form!r}")
  return saved


def _check_config(path: str, description: Description) -> list[str]:
  """Returns the differences to the run that is in the folder, all of them allowed."""
  if not os.path.exists(os.path.join(path, CONFIG)):
    return []
  remedy = f"`workdir`, where `fork={path}` begins with the weights of this run,"
  return check_same_run(path, description, f"workdir {path}", remedy)


def check_same_run(folder: str, description: Description, what: str, remedy: str) -> list[str]:
  """Returns a line for each difference to the run in `folder`, all of them allowed.

  Args:
    folder: that holds config.json.
    description: of the run that starts.
    what: the folder, in the message.
    remedy: what may be chosen anew, in the message.

  Raises:
    UserError: they differ in more than `MAY_CHANGE`, or config.json cannot be read.
  """
  saved = saved_description(folder)
  if saved.task != description.task:
    raise UserError(
      f"{what} holds a run of the task {saved.task!r}, and this is {description.task!r}; "
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
  """Returns what the run in `workdir` was forked from, as `save_config` wrote it; None if nothing.

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
  """Writes config.json: the folder is then that of a run of `description`.

  Args:
    workdir: folder of the run.
    description: what the run is.
    origin: what the run was forked from, as JSON values.

  Raises:
    OSError: it cannot be written.
  """
  saved = {"format": FORMAT, "task": description.task, "config": description.config}
  saved |= {} if origin is None else {"fork": origin}
  text = json.dumps(saved, indent=2) + "\n"
  write_atomically(os.path.join(workdir, CONFIG), text)
