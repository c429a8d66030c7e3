"""Files that outlast a kill and a power cut."""

import contextlib
import os


def write_atomically(path: str, text: str) -> None:
  """Writes a file that is, at every moment and after a power cut, either the old or the new one."""
  temporary = f"{path}.tmp"
  try:
    with open(temporary, "w", encoding="utf-8") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError:
    with contextlib.suppress(OSError):
      os.unlink(temporary)
    raise
  sync(os.path.dirname(path) or ".")


def sync(path: str) -> None:
  """Makes a file's bytes, or the names in a folder, outlast a power cut."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
