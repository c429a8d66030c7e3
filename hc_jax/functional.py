"""Models of either kind of Flax as two functions, for tools that look into them."""

import importlib
from types import ModuleType
from typing import Any

import flax.linen as nn


def functional(model: Any) -> Any:
  """Returns what has `init` and `apply` as a Linen module has them: the module, or one made of NNX.

  Args:
    model: a Linen or an NNX module.

  Raises:
    TypeError: if it is neither.
  """
  if isinstance(model, nn.Module):
    return model
  if (nnx := nnx_of(model)) is None:
    raise TypeError(f"{type(model).__name__} is neither a Linen nor an NNX module")
  return nnx.Functional(model)


def nnx_of(model: Any) -> ModuleType | None:
  """Returns `hc_jax.nnx` if the model is an NNX module, else None."""
  # Imported when it is needed: Linen alone does not need NNX.
  nnx = importlib.import_module("hc_jax.nnx")
  return nnx if nnx.is_nnx(model) else None
