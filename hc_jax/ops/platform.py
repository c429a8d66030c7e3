"""One function in several forms, of which a platform gets the one that moves the fewest bytes."""

from collections.abc import Callable
from typing import Any

import jax


def by_platform(
  *args: Any, default: Callable, gpu: Callable | None = None, tpu: Callable | None = None
) -> Any:
  """`default(*args)`, or on a GPU or TPU its form for there.

  Chosen when the program is lowered, by the platform that it is lowered for, so that a program
  compiled here for a device elsewhere gets that device's form.
  """
  forms = {"cuda": gpu, "rocm": gpu, "tpu": tpu}
  return jax.lax.platform_dependent(
    *args, default=default, **{name: form for name, form in forms.items() if form is not None}
  )


def stored(x: Any) -> Any:
  """x, an array or a tree of them, which the compiler now keeps in memory in its own dtype, once.

  Without it XLA skips the rounding of a bfloat16 sum that is soon read as float32, and keeps the
  float32 numbers in memory in place of it: twice the bytes. And it makes a sum again for each who
  asks for it.
  """
  return jax.lax.optimization_barrier(x)
