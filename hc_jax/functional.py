"""One interface (`init`, `apply`) for Linen and NNX modules, for tools that analyse models."""

import importlib
from types import ModuleType
from typing import Any

import flax.linen as nn


def functional(model: Any) -> Any:
  """Returns an object with `init` and `apply` of Linen: the Linen module itself, or an NNX wrapper.

  Args:
    model: a Linen or an NNX module.

  Raises:
    TypeError: `model` is neither.
  """
  if isinstance(model, nn.Module):
    return model
  if (nnx := nnx_of(model)) is None:
    raise TypeError(f"{type(model).__name__} is neither a Linen nor an NNX module")
  return nnx.Functional(model)


def nnx_of(model: Any) -> ModuleType | None:
  """Returns `hc_jax.nnx` if the model is an NNX module, else None."""
  # Imported here, because users of Linen do not need NNX.
  nnx = importlib.import_module("hc_jax.nnx")
  return nnx if nnx.is_nnx(model) else None
