"""Declarations of a connection's parameters."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes

MAPS = ("read", "mix", "write", "all")


@dataclasses.dataclass(frozen=True)
class Param:
  """Declaration of one parameter of a site.

  Counts, weight decay, frozen parameters, sharding and the parameters of every framework follow
  from these fields.

  Attributes:
    shape: shape at one site.
    init: initializer, `init(key, shape, dtype) -> array`.
    maps: the map that the parameter makes, "read", "mix" or "write", or "all" if it serves several.
      Where columns serve different maps, pairs of a map and its number of columns, in order.
    axes: logical names of the axes; None for an axis that is never sharded.
    decays: whether weight decay applies.
    trains: whether the parameter gets a gradient.
  """

  shape: tuple[int, ...]
  init: Callable[[jax.Array, tuple[int, ...], jax.typing.DTypeLike], jax.Array]
  maps: str | tuple[tuple[str, int], ...] = "all"
  axes: tuple[str | None, ...] | None = None
  decays: bool = False
  trains: bool = True

  @property
  def names(self) -> tuple[str | None, ...]:
    """Logical names of all axes."""
    return (None,) * len(self.shape) if self.axes is None else self.axes

  def parts(self, leaf: jax.Array) -> dict[str, jax.Array]:
    """Returns the columns of the parameter or its gradient, by the map that they make."""
    if isinstance(self.maps, str):
      return {self.maps: leaf}
    found, end = {}, 0
    for name, columns in self.maps:
      found[name] = leaf[..., end : end + columns]
      end += columns
    return found


def value(array: jax.Array) -> Callable:
  """Returns an initializer that gives `array` for every key."""
  return lambda key, shape, dtype: jnp.broadcast_to(jnp.asarray(array, dtype), shape)


def bind(module: nn.Module, declared: Mapping[str, Param], partitioned: bool) -> dict:
  """Creates the declared parameters in a Linen module, float32, in order, and returns them.

  Args:
    module: a module whose compact method is running.
    declared: declarations by name.
    partitioned: whether parameters carry the logical names of their axes
      (`flax.linen.LogicallyPartitioned`).
  """
  found = {}
  for name, param in declared.items():
    init = axes.partitioned(param.init, *param.names) if partitioned else param.init
    found[name] = module.param(name, init, param.shape, jnp.float32)
  return found
