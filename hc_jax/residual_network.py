"""The plain residual network of a model with connections."""

from typing import Any

import flax.linen as nn

from hc_jax import ops
from hc_jax.functional import nnx_of


class AsResidual(nn.Module):
  """A model within `plain_residual`, with the model's own parameter names; see `as_residual`."""

  model: nn.Module

  def setup(self) -> None:
    nn.share_scope(self, self.model)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Returns the model's output, with every connection a plain residual."""
    with ops.plain_residual():
      return self.model(*args, **kwargs)


def as_residual(model: Any) -> Any:
  """Returns the model with every connection a plain residual: `x' = x + F(x)`, one stream.

      baseline = hc_jax.as_residual(model)
      variables = baseline.init(key, x)       # without parameters of connections

  It works for any variant, number of streams and fractions. The other parameters keep their names,
  so that the model's own parameters work too. Where a connection replaced a norm, the norm is back;
  if norms have parameters, the model's parameters lack those of this norm. Only `__call__` is
  changed: run other methods within `plain_residual`.

  Args:
    model: a Linen module, or an NNX module.

  Returns:
    A Linen module with the model inside, or a copy of the NNX module without the connections'
    parameters.

  Raises:
    TypeError: if the model is neither.
  """
  if isinstance(model, nn.Module):
    return AsResidual(model)
  if (nnx := nnx_of(model)) is None:
    raise TypeError(
      f"as_residual takes a Linen or NNX module, not {type(model).__name__}; anything else runs "
      "within hc_jax.plain_residual()"
    )
  return nnx.as_residual(model)
