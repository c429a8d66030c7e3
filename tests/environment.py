"""Environment of every test, and of every process that a test starts.

It has eight CPU devices, no silent rank promotion, and one shared folder of compiled code.
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
  """Sets the variables that JAX reads when it is first imported; child processes inherit them.

  A test that needs other devices gives its process another environment.
  """
  if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
  # Tests run on CPU by default. JAX_PLATFORMS=cuda python -m pytest ... overrides that.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  # Because silent broadcasting over a missing axis would hide a transposed map.
  os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
  # Because tests have no display.
  os.environ.setdefault("MPLBACKEND", "agg")
  keep_compiled_code()
  compile_cheaply()


def cache_folder() -> str | None:
  """Returns the folder of compiled code of this machine; None if HC_JAX_TEST_CACHE=0."""
  return None if os.environ.get("HC_JAX_TEST_CACHE") == "0" else str(CACHE / _machine())


def keep_compiled_code() -> None:
  """Makes this process reuse compiled code, because compiling takes most of the suite's time.

  This uses jax.config and not the environment, so that a command started by a test compiles anew,
  as it would for a user.
  """
  import jax

  if not (folder := cache_folder()):
    return
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  _write_entries_whole()


optimised = False  # True while a test needs optimised code; see the fixture `optimised`


def compile_cheaply() -> None:
  """Makes this process compile without XLA's optimisations, which takes a fifth of the time.

  The suite tests our programs, not XLA's optimisations. `hc_jax.testing.compiled` has the options.
  This function applies them to eager operations too, and to code that the package compiles. It has
  no effect on a GPU.
  """
  from jax._src import compiler

  from hc_jax.testing import compiled

  original, asking = compiler.get_compile_options, []

  def cheaply(*args, env_options_overrides=None, **kwargs):
    given = dict(env_options_overrides or {})
    if not (optimised or asking):
      asking.append(True)  # because `options` itself compiles to try them out
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
  """Makes JAX rename each cache entry into place, because other processes read the folder.

  JAX itself writes in place, so that a reader could find half an entry, or a killed process leave
  one.
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
  """Returns a name of this processor, because code compiled for another one must not run here."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
    facts = sorted({line for line in text.splitlines() if line.startswith(("flags", "model name"))})
  except OSError:
    facts = [platform.processor(), platform.machine()]
  return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
