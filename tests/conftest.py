"""What every test relies on: eight CPU devices, no silent rank promotion, and compiled code kept.

The environment must be set before jax is first imported, and a process that a test starts inherits
it. A test that needs other devices gives its process another environment.
"""

import functools
import hashlib
import os
import pathlib
import platform
import shutil

_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
# The suite is about being right, on CPU. JAX_PLATFORMS=cuda python -m pytest ... overrides it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Broadcasting over a missing axis is how a transposed map goes unnoticed: it must be said.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# A test draws pictures into files; a display is never there.
os.environ.setdefault("MPLBACKEND", "agg")

import jax  # noqa: E402  (after the environment)
import pytest  # noqa: E402

from hc_jax.testing import compiled  # noqa: E402

CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax-tests"
CACHE_BYTES = 500 << 20


def _machine() -> str:
  """Names this processor: code compiled for another one is not to be run here."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
    facts = sorted({line for line in text.splitlines() if line.startswith(("flags", "model name"))})
  except OSError:
    facts = [platform.processor(), platform.machine()]
  return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _keep_compiled_code() -> None:
  """Most of the suite's time is compilation; a second run takes a fraction of the first.

  By jax.config and not by the environment, so that the processes that tests start (train.py killed
  and resumed, say) compile for themselves, as a user's would. HC_JAX_TEST_CACHE=0 turns it off.
  """
  if os.environ.get("HC_JAX_TEST_CACHE") == "0":
    return
  if sum(file.stat().st_size for file in CACHE.rglob("*") if file.is_file()) > CACHE_BYTES:
    shutil.rmtree(CACHE, ignore_errors=True)
  jax.config.update("jax_compilation_cache_dir", str(CACHE / _machine()))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


_keep_compiled_code()


@pytest.fixture(scope="module")
def cheap_compilation():
  """What the package compiles by itself, and eager operations, compiled as `compiled.jit` does."""
  jit, old = jax.jit, jax.config.values["jax_disable_most_optimizations"]
  jax.jit = functools.partial(jit, compiler_options=compiled.options())
  jax.config.update("jax_disable_most_optimizations", jax.default_backend() == "cpu")
  yield
  jax.jit = jit
  jax.config.update("jax_disable_most_optimizations", old)


def pytest_make_parametrize_id(val: object) -> str | None:
  """Bytes go into a test's name by length: compressed ones hold the time, and ids must agree."""
  return f"{len(val)}bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list) -> None:
  """Tests of a file run in one process, which keeps compiled code; unless they say otherwise."""
  for item in items:
    if not item.get_closest_marker("xdist_group"):
      item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))
