"""Generalised hyper-connections: n slots of 1/m of the width each."""

from typing import ClassVar

import flax.linen as nn
import jax

from hc_jax import axes
from hc_jax.connections.per_stream import PerStreamConnection


class GeneralizedHyperConnection(PerStreamConnection):
  """Generalised hyper-connections (GHC, DGHC) of Virtual Width Networks, arXiv 2511.11238, Eq. 6.

  The width is cut into m parts and the state has n >= m slots of that size, so that it is n/m times
  as wide as the backbone. Every slot may read and write every part. Hyper-connections are m = 1,
  Frac-Connections n = m with a diagonal write. Dynamic (DGHC) norms by RMSNorm, divides by sqrt(w)
  before the tanh, and has a scale for every coefficient, which starts at one.

  The paper widens the embedding and narrows the output by parameters of their own; here `expand`
  copies fraction `j mod m` into slot j, and `reduce` sums the copies, which makes it start as the
  Pre-Norm residual network whatever n and m.

  Parameters: `mn + n(m+n)` static; dynamic adds `(d/m)(2m+n) + |norm|` and `mn + n(m+n)` scales.

  Attributes:
    num_streams: n, slots.
    fractions: m, parts of the width; divides it, and may divide n or not.
    dynamic: DGHC if true, GHC if false.
  """

  source: ClassVar[str] = "arXiv 2511.11238, Eq. 6 and Appendix B"
  num_streams: int = 3
  fractions: int = 2
  norm: str = "rmsnorm"
  dynamic_scale_init: float = 1.0

  @property
  def write_columns(self) -> int:
    return self.fractions

  def scales(self) -> tuple[jax.Array, jax.Array]:
    n = self.num_streams
    init = axes.partitioned(nn.initializers.constant(self.dynamic_scale_init), None, None)
    read = self.param("read_scale", init, (self.slots, n))
    mix = self.param("mix_scale", init, (n, n))
    write = self.param("write_scale", init, (n, self.fractions))
    return jax.numpy.concatenate([read, mix]), write

  def num_scales(self) -> int:
    return self.num_streams * (self.slots + self.num_streams + self.fractions)

  def _temperature(self, w: int) -> float:
    return w**-0.5
