"""Folder at an fsspec address, such as gs://bucket/run, with the few operations of a mirror."""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from typing import Any

from hc_jax import folders
from hc_jax.errors import UserError
from hc_jax.runs.errors import reason_of

_PATTERNS = "*?[]"  # fsspec would expand these as patterns when it copies or deletes
# Stores that write an object atomically, and in which renaming would copy it.
_ATOMIC = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")


class Remote:
  """Folder of an object store or another file system; names are relative to the folder.

  Methods do not translate the errors of the store's own package, because each package has its own.
  """

  def __init__(self, address: str) -> None:
    """Opens the file system; the folder need not exist.

    Args:
      address: an fsspec address; without a protocol, a local path.

    Raises:
      UserError: the address is malformed, or the package for its protocol is not installed.
    """
    import fsspec  # slow to import, and only a run with a mirror needs it

    if found := sorted(set(_PATTERNS) & set(address)):
      raise UserError(f"mirror={address} holds {found[0]!r}, which fsspec takes as a pattern")
    self.address = address.rstrip("/")
    protocol = fsspec.utils.get_protocol(address)
    self.is_local = protocol in ("file", "local")
    self._is_atomic = protocol in _ATOMIC
    options = {"auto_mkdir": True} if self.is_local else {}
    try:
      self._fs, root = fsspec.core.url_to_fs(
        address, use_listings_cache=False, skip_instance_cache=True, **options
      )
    except Exception as error:  # the store's package has its own exceptions
      raise UserError(f"mirror={address} cannot be opened: {reason_of(error)}") from error
    self.root = root.rstrip("/")
    if not self.root:
      raise UserError(f"mirror={address} names no folder; add one, as in gs://bucket/run")

  def _path(self, name: str) -> str:
    return f"{self.root}/{name}" if name else self.root

  def list(self, name: str) -> list[str]:
    """Returns the names in a folder; [] if it does not exist."""
    try:
      paths = self._fs.ls(self._path(name), detail=False)
    except (FileNotFoundError, NotADirectoryError):
      return []
    return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in paths})

  def sizes(self, name: str) -> dict[str, int]:
    """Returns the sizes in bytes of all files below a folder, by path relative to the folder."""
    top = self._path(name) + "/"
    found = self._fs.find(top.rstrip("/"), detail=True)
    return {path.removeprefix(top): info["size"] for path, info in found.items()}

  def read(self, name: str, limit: int) -> bytes | None:
    """Returns a file's bytes; None if it does not exist.

    Raises:
      UserError: the file has more than `limit` bytes.
    """
    with contextlib.suppress(FileNotFoundError):
      if self._fs.info(self._path(name))["size"] > limit:
        raise UserError(f"{self.address}/{name} has more than {limit:,} bytes")
      return self._fs.cat_file(self._path(name))
    return None

  def write(self, name: str, content: bytes) -> None:
    """Writes a file atomically: readers see either the old or the new content."""
    path = self._path(name)
    first = path if self._is_atomic else f"{path}.tmp"
    with tempfile.NamedTemporaryFile() as file:
      file.write(content)
      file.flush()
      self._fs.put_file(file.name, first)
    if first != path:
      self._fs.mv(first, path)

  def upload(self, folder: str, names: Iterable[str], to: str) -> None:
    """Copies the files `names` of a local folder to the folder `to` of this remote."""
    names = list(names)
    local = [os.path.join(folder, name) for name in names]
    self._fs.put(local, [self._path(f"{to}/{name}") for name in names])

  def download(self, name: str, names: Iterable[str], folder: str) -> None:
    """Copies the files `names` of this remote's folder `name` to a local folder.

    Raises:
      UserError: a name points outside `folder`.
    """
    names = list(names)
    for one in names:  # checked, because a stranger may have chosen the names
      with folders.parent_of(folder, one, make=True):
        pass
    local = [os.path.join(folder, one) for one in names]
    self._fs.get([self._path(f"{name}/{one}") for one in names], local)

  def remove(self, name: str, first: str) -> None:
    """Removes a folder, beginning with its file `first`; does nothing if it does not exist."""
    for path, recursive in ((self._path(f"{name}/{first}"), False), (self._path(name), True)):
      with contextlib.suppress(FileNotFoundError):
        self._fs.rm(path, recursive=recursive)


def plain(name: Any) -> bool:
  """Returns whether a name is a single path part of only letters, digits, `.`, `-` and `_`."""
  return (
    isinstance(name, str)
    and name.strip(".") != ""
    and all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in name)
  )
