"""`jit` for tests, where compiling costs all and running nothing: XLA without its optimisations.

What is tested is the program; that XLA's optimisations keep its meaning is XLA's own business.
Tests of bits, training and timing use `jax.jit`.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@functools.cache
def options() -> dict[str, Any]:
  """The options of this JAX's CPU compiler that make it quick; another backend keeps its own."""
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
      continue  # this version of XLA has no such option
    found[name] = value
  return found


def jit(function: Callable, **kwargs: Any) -> Callable:
  """`jax.jit`, compiled without optimisation."""
  return jax.jit(function, compiler_options=options(), **kwargs)


def normal(name: str, *shape: int) -> np.ndarray:
  """Standard normal float32 numbers, the same for a name wherever it is used; nothing compiles."""
  return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
