"""The manifest of a checkpoint: size and SHA-256 of every file in it, written last.

Orbax makes a checkpoint's folder appear whole, but keeps no checksums: a bit that flips in an array
afterwards is read back as another number, and nothing says so. So a checkpoint counts only with its
manifest, and is compared with it before anything else reads it. That costs about 1.25 s of
processor time a GB on a core with SHA instructions (docs/survive.md), in the background while
training goes on, and again, in the foreground, at a start.
"""

import concurrent.futures
import hashlib
import json
import os
from typing import Any

from hc_jax import durable

FILE = "manifest.json"
FORMAT = "hc_jax manifest 1"
_THREADS = 4  # hashing leaves Python's lock


def write(folder: str, step: int) -> None:
  """Writes the manifest of all files below `folder`, once they and their names are on the disk.

  Raises:
    OSError: a file cannot be read or written.
  """
  names = sorted(
    os.path.relpath(os.path.join(parent, name), folder)
    for parent, _, files in os.walk(folder)
    for name in files
  )
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    entries = pool.map(lambda name: _entry(os.path.join(folder, name), sync=True), names)
    files = dict(zip(names, entries, strict=True))
  for parent, _, _ in os.walk(folder):
    durable.sync(parent)
  durable.sync(os.path.dirname(folder))
  durable.write_atomically(
    os.path.join(folder, FILE),
    json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1) + "\n",
  )


def exists(folder: str) -> bool:
  """Whether the save of this checkpoint came to its end."""
  return os.path.isfile(os.path.join(folder, FILE))


def fault(folder: str, step: int) -> str | None:
  """What is wrong with a checkpoint, in a few words; None when it is as it was written.

  Sizes are compared first, so that a file cut short is found at once.
  """
  if not exists(folder):
    return f"no {FILE}: its save did not come to an end"
  try:
    with open(os.path.join(folder, FILE), encoding="utf-8") as file:
      manifest = json.load(file)
    if manifest["format"] != FORMAT:
      return f"{FILE} is of format {manifest['format']!r}; this version reads {FORMAT!r}"
    if manifest["step"] != step:
      return f"{FILE} is that of step {manifest['step']}"
    expected = dict(manifest["files"])
    for name, entry in expected.items():
      size = os.path.getsize(os.path.join(folder, name))
      if size != entry["bytes"]:
        return f"{name} has {size:,} bytes in place of {entry['bytes']:,}"
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
      found = pool.map(lambda name: _entry(os.path.join(folder, name)), expected)
      for name, entry in zip(expected, found, strict=True):
        if entry != expected[name]:
          return f"{name} has changed: its SHA-256 is another"
  except FileNotFoundError as error:
    return f"{os.path.relpath(error.filename, folder)} is missing"
  except OSError as error:
    return f"{os.path.relpath(error.filename, folder)} cannot be read: {error.strerror}"
  except (ValueError, KeyError, TypeError, AttributeError):
    return f"{FILE} is damaged"
  return None


def _entry(path: str, sync: bool = False) -> dict[str, Any]:
  with open(path, "rb") as file:
    if sync:
      os.fsync(file.fileno())
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": file.tell(), "sha256": digest}
