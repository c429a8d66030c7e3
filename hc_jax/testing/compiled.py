"""`jit` for tests: compiles without XLA's optimisations, because tests mostly wait for compiling.

Tests of bits, training and timing use `jax.jit` instead.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@functools.cache
def options() -> dict[str, Any]:
  """Returns the options that make this JAX's CPU compiler quick; {} on other backends."""
  found = {}
  if jax.default_backend() != "cpu":
    return found
  for name, value in (
    ("xla_backend_optimization_level", 0),
    ("xla_cpu_use_fusion_emitters", False),
    ("xla_cpu_enable_concurrency_optimized_scheduler", False),
  ):
    try:
      jax.jit(lambda x: x, compiler_options={name: value})(np.float32(0))
    except jax.errors.JaxRuntimeError:
      continue  # because this version of XLA has no such option
    found[name] = value
  return found


def jit(function: Callable, **kwargs: Any) -> Callable:
  """Returns `jax.jit(function)`, compiled without optimisation; `kwargs` are those of `jax.jit`."""
  return jax.jit(function, compiler_options=options(), **kwargs)


def normal(name: str, *shape: int) -> np.ndarray:
  """Returns standard normal float32 numbers `[*shape]`, seeded by `name`; nothing compiles."""
  return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
