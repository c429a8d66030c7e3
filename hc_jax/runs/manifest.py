"""The manifest of a checkpoint: size and SHA-256 of every file in it, written last.

Orbax makes a checkpoint's folder appear whole, but keeps no checksums. If a bit of an array flips
later, the array is read back as other numbers, without an error. So a checkpoint counts only if it
has a manifest, and it is compared with the manifest before anything else reads it. Hashing takes
about 1.25 s of processor time per GB on a core with SHA instructions (docs/survive.md): once in the
background while training continues, and once in the foreground at a start.
"""

import concurrent.futures
import hashlib
import json
import os
from typing import Any

from hc_jax import durable, folders
from hc_jax.errors import UserError

FILE = "manifest.json"
FORMAT = "hc_jax manifest 1"
# Every checkpoint has these files, and files in these folders.
REQUIRED = ("card/metadata", "params/_METADATA", "params/d/", "train/_METADATA", "train/d/")
LIMIT = 64 << 20  # largest manifest in bytes; a file takes about 150
_THREADS = 4  # hashing releases Python's global lock


def write(folder: str, step: int) -> None:
  """Writes the manifest of all files below `folder`, after forcing them and their names to disk.

  Raises:
    OSError: a file cannot be read or written.
  """
  names = folders.files_below(folder)
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    entries = pool.map(lambda name: _entry(folder, name, sync=True), names)
    files = dict(zip(names, entries, strict=True))
  for parent, _, _ in os.walk(folder):
    durable.sync(parent)
  durable.sync(os.path.dirname(folder))
  durable.write_atomically(
    os.path.join(folder, FILE),
    json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1) + "\n",
  )


def exists(folder: str) -> bool:
  """Returns whether a checkpoint's folder has a manifest, which means that its save finished.

  Raises:
    OSError: the folder cannot be read.
  """
  try:
    os.lstat(os.path.join(folder, FILE))
  except (FileNotFoundError, NotADirectoryError):
    return False
  return True


def fault(folder: str, step: int) -> str | None:
  """Returns the damage of a checkpoint in a few words; None if it is as it was written.

  The folder must hold exactly the files of the manifest, all plain. Sizes are compared first,
  because that finds a truncated file at once.

  Raises:
    OSError: a file cannot be read, so whether it is damaged is unknown.
  """
  try:
    if os.path.islink(folder):
      return "it is a link; a run holds plain files and folders only"
    if not exists(folder):
      return f"no {FILE}: its save did not come to an end"
    manifest = folders.read_json(folder, FILE, LIMIT)
    if manifest["format"] != FORMAT:
      return f"{FILE} is of format {manifest['format']!r}; this version reads {FORMAT!r}"
    if manifest["step"] != step:
      return f"{FILE} is that of step {manifest['step']}"
    return _compare(folder, dict(manifest["files"]))
  except UserError as error:
    return str(error)
  except FileNotFoundError as error:
    return f"{os.path.relpath(error.filename, folder)} is missing"
  except (ValueError, KeyError, TypeError, AttributeError):
    return f"{FILE} is damaged"


def _compare(folder: str, expected: dict[str, Any]) -> str | None:
  """Returns the first difference between a folder and its manifest."""
  for needed in REQUIRED:
    if not any(name == needed or name.startswith(needed) for name in expected):
      return f"{FILE} lists no {needed}"
  found = set(folders.files_below(folder)) - {FILE}
  for name, entry in expected.items():
    if name not in found:
      return f"{name} is missing"
    size = os.lstat(os.path.join(folder, name)).st_size
    if size != entry["bytes"]:
      return f"{name} has {size:,} bytes instead of {entry['bytes']:,}"
  if unknown := sorted(found - expected.keys()):
    return f"{unknown[0]} is not in {FILE}; move it away"
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    entries = pool.map(lambda name: _entry(folder, name), expected)
    for name, entry in zip(expected, entries, strict=True):
      if entry != expected[name]:
        return f"{name} has changed: its SHA-256 differs"
  return None


def _entry(folder: str, name: str, sync: bool = False) -> dict[str, Any]:
  try:
    with os.fdopen(folders.open_file(folder, name), "rb") as file:
      if sync:
        os.fsync(file.fileno())
      digest = hashlib.file_digest(file, "sha256").hexdigest()
      return {"bytes": file.tell(), "sha256": digest}
  except OSError as error:
    error.filename = os.path.join(folder, name)  # a failing read does not name its file
    raise
