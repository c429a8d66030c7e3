"""Prepares every test: eight CPU devices, no silent rank promotion, and compiled code kept."""

import functools
import os

from tests import environment

environment.prepare()  # before jax is first imported

import jax  # noqa: E402  (after the environment)
import pytest  # noqa: E402

from hc_jax.testing import compiled  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
  """Before the workers start, and in none of them, for all use the folder at once."""
  del config
  if "PYTEST_XDIST_WORKER" not in os.environ:
    environment.forget_old_code()


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
