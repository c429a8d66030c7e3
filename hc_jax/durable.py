"""Files that outlast a kill and a power cut."""

import contextlib
import os

from hc_jax import folders


def write_atomically(path: str, content: str | bytes, root: str | None = None) -> None:
  """Writes a file that is, at every moment and after a power cut, either the old or the new one.

  A link at `path` is replaced, not followed.

  Args:
    path: of the file.
    content: bytes, or text to be written as UTF-8.
    root: a folder above `path`, below which no folder may be a link; by default the one `path` is
      in.

  Raises:
    UserError: a folder between `root` and the file is a link.
    OSError: it cannot be written.
  """
  content = content.encode() if isinstance(content, str) else content
  root = root or os.path.dirname(path) or "."
  with folders.parent_of(root, os.path.relpath(path, root)) as (at, name):
    temporary = f"{name}.tmp"
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary, dir_fd=at)  # what a kill has left, or a link
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
  """Makes a file's bytes, or the names in a folder, outlast a power cut."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
