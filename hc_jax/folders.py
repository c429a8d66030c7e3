"""Safe access to files in a folder that a stranger may have filled: regular, inside, not too large.

The caller chooses the folder itself, whose path may contain links. Below it, no link is followed,
neither to read nor to write (docs/survive.md has the threat model). Before a library opens files in
such a folder by their path, call `check_plain`.
"""

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from typing import Any

from hc_jax.errors import UserError

JSON_BYTES, JSON_DEPTH = 1 << 20, 32
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK, because opening a pipe would otherwise wait for its other end; files ignore it.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def parent_of(folder: str, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
  """Opens the folder below `folder` that holds `name`; yields its descriptor and the last part.

  Args:
    folder: the caller's folder.
    name: path relative to `folder`.
    make: whether to create missing folders.

  Raises:
    UserError: the path leaves the folder, or passes through a link or a file.
    OSError: a folder cannot be opened; the error's filename is the whole path.
  """
  parts = name.split("/")
  if os.path.isabs(name) or not parts or {"", ".", ".."} & set(parts) or "\0" in name:
    raise UserError(f"{name!r} is not the name of a file inside {folder}")
  path = folder
  try:
    at = os.open(folder, _FOLDER)
    try:
      for part in parts[:-1]:
        path = os.path.join(path, part)
        if make:
          with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=at)
        below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
        os.close(at)
        at = below
      path = os.path.join(folder, name)
      yield at, parts[-1]
    finally:
      os.close(at)
  except OSError as error:
    if path != folder and error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
      raise _refused(path) from error
    raise OSError(error.errno, error.strerror, path) from error


def open_file(folder: str, name: str, flags: int = os.O_RDONLY) -> int:
  """Opens a regular file; returns its descriptor.

  Args:
    folder: the caller's folder.
    name: path relative to `folder`.
    flags: flags of `os.open`.

  Raises:
    UserError: the path is a link, a pipe or a device, or is not inside the folder.
    OSError: the file cannot be opened.
  """
  with parent_of(folder, name) as (at, last):
    descriptor = os.open(last, flags | _FILE, 0o666, dir_fd=at)
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise _refused(os.path.join(folder, name))
  return descriptor


def read_bytes(folder: str, name: str, limit: int) -> bytes:
  """Reads a regular file whole.

  Raises:
    UserError: as in `open_file`, or the file has more than `limit` bytes.
    OSError: the file cannot be read.
  """
  with os.fdopen(open_file(folder, name), "rb") as file:
    content = file.read(limit + 1)
  if len(content) > limit:
    path = os.path.join(folder, name)
    raise UserError(f"{path} has more than {limit:,} bytes: this is not a file of hc_jax")
  return content


def read_json(folder: str, name: str, limit: int = JSON_BYTES) -> Any:
  """Reads a JSON file by `read_bytes` and `parse_json`."""
  return parse_json(read_bytes(folder, name, limit))


def parse_json(text: bytes) -> Any:
  """Parses JSON text.

  Raises:
    ValueError: the text is not JSON, is nested deeper than `JSON_DEPTH`, or has a number that is
      not finite.
  """
  try:
    value = json.loads(text, parse_constant=_number, parse_float=_number)
  except RecursionError as error:
    raise ValueError("it is nested too deeply") from error
  level = [value]
  for _ in range(JSON_DEPTH):
    level = [
      below
      for item in level
      if isinstance(item, dict | list)
      for below in (item.values() if isinstance(item, dict) else item)
    ]
  if level:
    raise ValueError("it is nested too deeply")
  return value


def _number(word: str) -> float:
  if not math.isfinite(value := float(word)):
    raise ValueError(f"{word} is not a finite number")
  return value


def list_folder(folder: str, name: str) -> list[str]:
  """Returns the sorted names in a folder below `folder`; [] if it does not exist.

  Raises:
    UserError: the path is or passes through a link or a file.
  """
  try:
    with parent_of(folder, f"{name}/.list") as (at, _), os.scandir(at) as entries:
      return sorted(entry.name for entry in entries)
  except FileNotFoundError:
    return []


def make_folder(folder: str, name: str) -> str:
  """Creates a folder below `folder`, with its parents, and returns its path.

  Raises:
    UserError: the path is or passes through a link or a file.
    OSError: the folder cannot be created.
  """
  with parent_of(folder, f"{name}/.made", make=True):
    return os.path.join(folder, name)


def files_below(folder: str) -> list[str]:
  """Returns the sorted relative paths of all files below `folder`.

  Raises:
    UserError: an entry is neither a regular file nor a folder.
    OSError: a folder cannot be listed.
  """
  found, waiting = [], [""]
  while waiting:
    above = waiting.pop()
    with os.scandir(os.path.join(folder, above)) as entries:
      for entry in entries:
        name = os.path.join(above, entry.name)
        if entry.is_dir(follow_symlinks=False):
          waiting.append(name)
        elif entry.is_file(follow_symlinks=False):
          found.append(name)
        else:
          raise _refused(os.path.join(folder, name))
  return sorted(found)


def check_plain(folder: str, *names: str) -> None:
  """Refuses links, pipes and devices at and below `names` in `folder`; names may be missing.

  Raises:
    UserError: a path is a link, a pipe or a device.
    OSError: a folder cannot be listed.
  """
  for name in names:
    path = os.path.join(folder, name)
    with contextlib.suppress(FileNotFoundError):
      mode = os.lstat(path).st_mode
      if stat.S_ISDIR(mode):
        files_below(path)
      elif not stat.S_ISREG(mode):
        raise _refused(path)


def _refused(path: str) -> UserError:
  return UserError(
    f"{path} is a link, a pipe or a device, or is reached through one, and a run has only plain "
    "files and folders; put the file itself there, or remove it"
  )
