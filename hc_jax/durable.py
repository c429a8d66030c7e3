"""Writing of files that survive a kill and a power cut."""

import contextlib
import os

from hc_jax import folders


def write_atomically(path: str, content: str | bytes, root: str | None = None) -> None:
  """Writes a file atomically: at any time, and after a power cut, it has the old or new content.

  Replaces a link at `path` instead of following it.

  Args:
    path: path of the file.
    content: bytes, or text to write as UTF-8.
    root: folder above `path`; no folder below it may be a link. The default is the folder of
      `path`.

  Raises:
    UserError: a folder between `root` and the file is a link.
    OSError: the file cannot be written.
  """
  content = content.encode() if isinstance(content, str) else content
  root = root or os.path.dirname(path) or "."
  with folders.parent_of(root, os.path.relpath(path, root)) as (at, name):
    temporary = f"{name}.tmp"
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary, dir_fd=at)  # left by a killed process, or a stranger's link
    try:
      flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
      with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=at), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, name, src_dir_fd=at, dst_dir_fd=at)
    except OSError:
      with contextlib.suppress(OSError):
        os.unlink(temporary, dir_fd=at)
      raise
    os.fsync(at)


def sync(path: str) -> None:
  """Forces a file's bytes, or the names in a folder, to disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
