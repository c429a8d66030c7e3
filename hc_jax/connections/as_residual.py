"""A model with connections as its own plain residual network."""

from typing import Any

import flax.linen as nn

from hc_jax import ops


class AsResidual(nn.Module):
  """A model within `plain_residual`, with the model's own parameter names; see `as_residual`."""

  model: nn.Module

  def setup(self) -> None:
    nn.share_scope(self, self.model)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """What the model returns, each of its connections a plain residual."""
    with ops.plain_residual():
      return self.model(*args, **kwargs)


def as_residual(model: nn.Module) -> AsResidual:
  """The model with every connection a plain residual: `x' = x + F(x)`, one stream.

      baseline = hc_jax.as_residual(model)
      variables = baseline.init(key, x)       # the model's parameters but for the connections'

  Whatever variant, number of streams and fractions the model uses. Its other parameters keep their
  names, and those of the model itself can be given too. Other methods than `__call__` are reached
  within `plain_residual`.

  Raises:
    TypeError: if it is no Linen module.
  """
  if not isinstance(model, nn.Module):
    raise TypeError(
      f"as_residual takes a Linen module, not {type(model).__name__}; anything else runs within "
      "hc_jax.plain_residual()"
    )
  return AsResidual(model)
