"""What every test and every process that a test starts relies on.

Eight CPU devices, no silent rank promotion, and one folder of compiled code for them all.
"""

import hashlib
import os
import pathlib
import platform
import shutil
import tempfile

CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax-tests"
CACHE_BYTES = 500 << 20
_DEVICES = "--xla_force_host_platform_device_count"


def prepare() -> None:
  """Sets what JAX reads when it is first imported; a process that a test starts inherits it.

  A test that needs other devices gives its process another environment.
  """
  if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
  # The suite is about being right, on CPU. JAX_PLATFORMS=cuda python -m pytest ... overrides it.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  # Broadcasting over a missing axis is how a transposed map goes unnoticed: it must be said.
  os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
  # A test draws pictures into files; a display is never there.
  os.environ.setdefault("MPLBACKEND", "agg")
  keep_compiled_code()
  compile_cheaply()


def cache_folder() -> str | None:
  """Returns the folder of compiled code of this machine; None if HC_JAX_TEST_CACHE=0."""
  return None if os.environ.get("HC_JAX_TEST_CACHE") == "0" else str(CACHE / _machine())


def keep_compiled_code() -> None:
  """Makes this process find compiled code and keep it: most of the suite's time is compilation.

  By jax.config and not by the environment, so that a command that a test starts as a user would
  compiles for itself.
  """
  import jax

  if not (folder := cache_folder()):
    return
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  _write_entries_whole()


optimised = False  # True while a test needs the code that users run; see the fixture `optimised`


def compile_cheaply() -> None:
  """Makes this process compile without XLA's optimisations, which takes a fifth of the time.

  What is tested is the program; that XLA's optimisations keep its meaning is XLA's own business.
  `hc_jax.testing.compiled` has the options; this gives them to eager operations, too, and to what
  the package compiles by itself. On a GPU nothing changes.
  """
  from jax._src import compiler

  from hc_jax.testing import compiled

  original, asking = compiler.get_compile_options, []

  def cheaply(*args, env_options_overrides=None, **kwargs):
    given = dict(env_options_overrides or {})
    if not (optimised or asking):
      asking.append(True)  # `options` tries them out, and compiles for that
      given = {**compiled.options(), **given}
      asking.clear()
    return original(*args, env_options_overrides=given, **kwargs)

  compiler.get_compile_options = cheaply


def forget_old_code() -> None:
  """Empties the folder of compiled code once it has grown past CACHE_BYTES."""
  files = (file for file in CACHE.rglob("*") if file.is_file())
  if sum(file.stat().st_size for file in files) > CACHE_BYTES:
    shutil.rmtree(CACHE, ignore_errors=True)


def _write_entries_whole() -> None:
  """Makes JAX rename an entry into its place: others read the folder while this process writes.

  JAX writes in place, so that a reader can meet half an entry, and a killed process leaves one.
  """
  from jax._src import lru_cache

  def put(self, key: str, value: bytes) -> None:
    place = os.path.join(str(self.path), f"{key}{lru_cache._CACHE_SUFFIX}")
    if os.path.exists(place):
      return
    with tempfile.NamedTemporaryFile(dir=self.path, delete=False) as file:
      file.write(value)
    os.replace(file.name, place)

  lru_cache.LRUCache.put = put


def _machine() -> str:
  """Names this processor: code compiled for another one is not to be run here."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
    facts = sorted({line for line in text.splitlines() if line.startswith(("flags", "model name"))})
  except OSError:
    facts = [platform.processor(), platform.machine()]
  return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
