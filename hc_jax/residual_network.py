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
  so that the model's own parameters work too. Some connections replace the norm before a branch.
  The residual network has this norm again; if it has parameters, initialise the network, because
  the model's parameters do not contain them.

  A Linen result has `__call__` alone; call other methods of `model` within `plain_residual`. Other
  methods of an NNX result must run within it too. The model itself does not change.

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
