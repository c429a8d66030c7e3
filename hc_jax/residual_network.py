"""A model with connections as its own plain residual network."""

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
    """What the model returns, each of its connections a plain residual."""
    with ops.plain_residual():
      return self.model(*args, **kwargs)


def as_residual(model: Any) -> Any:
  """Returns the model with every connection a plain residual: `x' = x + F(x)`, one stream.

      baseline = hc_jax.as_residual(model)
      variables = baseline.init(key, x)       # the model's parameters but for the connections'

  It takes any variant, number of streams and fractions. The other parameters keep their names, so
  that those of the model can be given too. Norms that a connection stood for are there again; where
  norms have parameters, the model has none for them. Methods other than `__call__` run within
  `plain_residual` only if they are called within it.

  Args:
    model: a Linen module, or an NNX module, of which the result is a copy without the parameters of
      its connections.

  Raises:
    TypeError: if it is neither.
  """
  if isinstance(model, nn.Module):
    return AsResidual(model)
  if (nnx := nnx_of(model)) is None:
    raise TypeError(
      f"as_residual takes a Linen or NNX module, not {type(model).__name__}; anything else runs "
      "within hc_jax.plain_residual()"
    )
  return nnx.as_residual(model)
