"""Hyper-connections, static and dynamic."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax

from hc_jax.connections.base import check_one_fraction
from hc_jax.connections.declare import Param
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

  def declare_scales(self) -> dict[str, Param]:
    init = nn.initializers.constant(self.dynamic_scale_init)
    trains = self.train_read_mix or self.train_write
    return {"dynamic_scale": Param((2,), init, (("all", 1), ("write", 1)), trains=trains)}

  def scales_of(self, small: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return small["dynamic_scale"][0], small["dynamic_scale"][1]
