"""Compilation cache that persists between starts and trusts only entries that this user wrote.

A cache entry is machine code, and JAX runs it without a check: if `zstandard` is installed, entries
have no checksum, and a damaged entry is never replaced. This cache authenticates each entry
(HMAC-SHA256, with a key in the user's home). It removes an entry that is damaged or that somebody
else wrote; the program is then compiled once more.
"""

import contextlib
import hashlib
import hmac
import os
import pathlib
import platform
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax._src import compilation_cache as internals
from jax.experimental.compilation_cache import compilation_cache

from hc_jax import folders

KEY = os.path.join("~", ".cache", "hc_jax", "compile.key")
_KEY_BYTES = 32
# JAX creates its file cache with this private function (0.10 to 0.12); none is public.
_SEAM = "get_file_cache"


@contextlib.contextmanager
def cache(spec: str, workdir: str, log: Callable[[str], None] = print) -> Iterator[None]:
  """Stores compiled programs in a folder, and reuses them, while the context is entered.

  Does nothing if JAX has a cache folder already (JAX_COMPILATION_CACHE_DIR). JAX then uses that
  folder itself, without authentication, and the caller must protect it.

  Args:
    spec: `train.compilation_cache`: a folder relative to the parent of the workdir, so that runs in
      neighbouring workdirs share it; "" turns the cache off.
    workdir: the run's folder.
    log: called with one line, which has the reason, if the cache cannot be used.
  """
  if not spec or jax.config.jax_compilation_cache_dir:
    yield
    return
  try:
    key = _own_key()
    folder = os.path.join(os.path.dirname(workdir), os.path.expanduser(spec), _name(key))
    _make_own(folder)
    if not hasattr(internals, _SEAM):
      raise OSError(None, f"JAX {jax.__version__} is newer than this version supports")
  except OSError as error:
    log(f"no compilation cache: {error.filename or spec}: {error.strerror or error}")
    yield
    return
  wanted = {
    "jax_compilation_cache_dir": folder,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
  }
  before = {name: getattr(jax.config, name) for name in wanted}
  made = getattr(internals, _SEAM)
  setattr(internals, _SEAM, lambda path: (Entries(path, key, log), path))
  _update(wanted)
  try:
    yield
  finally:
    setattr(internals, _SEAM, made)
    _update(before)


def _update(values: dict[str, Any]) -> None:
  for name, value in values.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


class Entries:
  """Cache of the form that JAX expects (`get`, `put`), on files that start with their HMAC."""

  def __init__(self, folder: str, key: bytes, log: Callable[[str], None] = print) -> None:
    self._path = pathlib.Path(folder)
    self._key, self._log = key, log

  def get(self, name: str) -> bytes | None:
    """Returns the entry `name` as `put` wrote it, or None. Removes an entry that has changed."""
    try:
      content = folders.read_bytes(str(self._path), name, 1 << 32)
    except OSError:
      return None
    tag, value = content[:_KEY_BYTES], content[_KEY_BYTES:]
    if hmac.compare_digest(tag, self._tag(name, value)):
      return value
    self._log("compilation cache: an entry is damaged; its program is compiled again")
    with contextlib.suppress(OSError):
      os.unlink(self._path / name)
    return None

  def put(self, name: str, value: bytes) -> None:
    """Writes an entry atomically; writes none, without an error, if the disk is full."""
    with contextlib.suppress(OSError):
      descriptor, temporary = tempfile.mkstemp(dir=self._path, prefix=".new-")
      try:
        with os.fdopen(descriptor, "wb") as file:
          file.write(self._tag(name, value) + value)
        os.replace(temporary, self._path / name)
      except OSError:
        os.unlink(temporary)
        raise

  def _tag(self, name: str, value: bytes) -> bytes:
    return hmac.new(self._key, name.encode() + b"\0" + value, hashlib.sha256).digest()


def _own_key() -> bytes:
  """Returns the user's key; creates it if it is missing.

  Raises:
    OSError: the key cannot be read or created, or other users can read it.
  """
  path = os.path.expanduser(KEY)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  if not os.path.lexists(path):
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    with os.fdopen(descriptor, "wb") as file:
      file.write(secrets.token_bytes(_KEY_BYTES))
    os.replace(temporary, path)  # if two processes race, the later rename wins
  _check_own(path, os.lstat(path), stat.S_ISREG)
  key = pathlib.Path(path).read_bytes()
  if len(key) != _KEY_BYTES:
    raise OSError(None, f"it is not a key of {_KEY_BYTES} bytes; remove it", path)
  return key


def _make_own(folder: str) -> None:
  """Creates a folder that only the user can enter; sets mode 0700 on the user's existing folder.

  Raises:
    OSError: the folder cannot be created, or belongs to another user.
  """
  os.makedirs(os.path.dirname(folder), exist_ok=True)
  with contextlib.suppress(FileExistsError):
    os.mkdir(folder, 0o700)
  found = os.lstat(folder)
  if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
    os.chmod(folder, 0o700)
  _check_own(folder, os.lstat(folder), stat.S_ISDIR)


def _check_own(path: str, found: os.stat_result, kind: Callable[[int], bool]) -> None:
  mode = stat.S_IMODE(found.st_mode)
  if not kind(found.st_mode) or found.st_uid != os.geteuid() or mode & 0o077:
    reason = f"it is not this user's alone (owner {found.st_uid}, mode {mode:o}); remove it"
    raise OSError(None, reason, path)


def _name(key: bytes) -> str:
  """Returns a folder name for this processor, because code for another processor may not run here.

  The key enters the name for two reasons: another user cannot predict the name, and hosts that have
  different keys do not remove each other's entries.
  """
  facts = [platform.system(), platform.machine()]
  with contextlib.suppress(OSError):
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    facts = sorted({line for line in text.splitlines() if line.startswith(("flags", "model name"))})
  return hmac.new(key, "\n".join(facts).encode(), hashlib.sha256).hexdigest()[:16]
