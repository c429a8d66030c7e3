"""Hyper-connections, static (SHC) and dynamic (DHC)."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax

from hc_jax.connections.base import check_one_fraction
from hc_jax.connections.declare import Param
from hc_jax.connections.per_stream import PerStreamConnection


class HyperConnection(PerStreamConnection):
  """Static (SHC) and dynamic (DHC) hyper-connections, arXiv 2409.19606, Eq. 1-14.

  Static: `read`, `write` and `mix` are parameters. They start as in Eq. 14: site k reads stream
  `k mod n`, writes to all streams, and mixes nothing. The network therefore starts as the Pre-Norm
  residual network. Dynamic: each token adds `scale * tanh(norm(X) @ dynamic_kernel)` to them
  (Eq. 10-13). Row j of that sum is computed from stream j alone; the kernel starts at zero.

  Calls and `write` are those of `Connection`. Parameters: `n(n+2)` static;
  `|norm| + d(n+2) + n(n+2) + 2` dynamic, with |norm| the parameters of the norm.

  Attributes:
    num_streams: n >= 1, the expansion rate.
    dynamic: whether maps depend on the token: DHC if true, SHC if false.
    dynamic_scale_init: initial value of both dynamic scales (of read and mix; of write).

  Raises:
    ValueError: by `check`, if `fractions` is not 1 or a field refuses its value.
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
