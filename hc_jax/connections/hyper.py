"""Hyper-connections, static and dynamic."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax

from hc_jax import axes
from hc_jax.connections.base import check_one_fraction
from hc_jax.connections.per_stream import PerStreamConnection


class HyperConnection(PerStreamConnection):
  """Static (SHC) and dynamic (DHC) hyper-connections, arXiv 2409.19606.

  Static: `read`, `write` and `mix` are parameters. They start as Eq. 14: the sublayer of index k
  reads stream `k mod n`, writes to all, and mixes nothing, which makes the network a Pre-Norm
  residual network at initialisation. Dynamic adds to each of them, per token,
  `scale * tanh(norm(X) @ dynamic_kernel)` (Eq. 10-13), where row j of the result comes from stream
  j alone; the kernel starts at zero.

  Parameters: `n(n+2)` static; `|norm| + d(n+2) + n(n+2) + 2` dynamic.

  Attributes:
    num_streams: n >= 1, the expansion rate.
    dynamic: DHC if true, SHC if false.
    dynamic_scale_init: initial value of both dynamic scales (of read and mix; of write).
  """

  source: ClassVar[str] = "arXiv 2409.19606, Eq. 1-14 and Algorithm 2"
  dynamic_scale_init: float = 0.01

  def check(self) -> None:
    check_one_fraction(self)
    super().check()

  def scales(self) -> tuple[jax.Array, jax.Array]:
    init = axes.partitioned(nn.initializers.constant(self.dynamic_scale_init), None)
    scale = self.param("dynamic_scale", init, (2,))
    return scale[0], scale[1]

  def num_scales(self) -> int:
    return 2

  def parts(self, params: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
    found = super().parts({k: v for k, v in params.items() if k != "dynamic_scale"})
    if "dynamic_scale" in params:
      found["all"]["dynamic_scale"] = params["dynamic_scale"][..., :1]
      found["write"]["dynamic_scale"] = params["dynamic_scale"][..., 1:]
    return found
