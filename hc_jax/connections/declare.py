"""What a connection says of each of its parameters, once."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes

MAPS = ("read", "mix", "write", "all")


@dataclasses.dataclass(frozen=True)
class Param:
  """One parameter of a site.

  Counts, weight decay, frozen parameters, the axes of sharding and every framework's own way of
  holding parameters follow from these few fields.

  Attributes:
    shape: shape at one site.
    init: `init(key, shape, dtype) -> array`, the initial value.
    maps: "read", "mix" or "write", the map that it makes; "all" where it serves several. Where
      columns serve different maps, pairs of a map and a number of columns, in order.
    axes: logical names of its axes; None is an axis that is never sharded.
    decays: whether weight decay applies.
    trains: whether it gets a gradient.
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
    """Returns the columns of the parameter, or of its gradient, by the map that they make."""
    if isinstance(self.maps, str):
      return {self.maps: leaf}
    found, end = {}, 0
    for name, columns in self.maps:
      found[name] = leaf[..., end : end + columns]
      end += columns
    return found


def value(array: jax.Array) -> Callable:
  """Returns an initializer that gives `array`, whatever the key."""
  return lambda key, shape, dtype: jnp.broadcast_to(jnp.asarray(array, dtype), shape)


def bind(module: nn.Module, declared: Mapping[str, Param], partitioned: bool) -> dict:
  """Makes the declared parameters those of a Linen module, float32, in their order.

  Args:
    module: within its compact method.
    declared: parameters by name.
    partitioned: whether they carry the logical names of their axes
      (`flax.linen.LogicallyPartitioned`).
  """
  found = {}
  for name, param in declared.items():
    init = axes.partitioned(param.init, *param.names) if partitioned else param.init
    found[name] = module.param(name, init, param.shape, jnp.float32)
  return found
