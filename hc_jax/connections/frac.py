"""Frac-Connections: hyper-connections on fractions of the width."""

from typing import ClassVar

from hc_jax.connections.hyper import HyperConnection


class FracConnection(HyperConnection):
  """Static and dynamic Frac-Connections, arXiv 2503.14125.

  The width is cut into m fractions, which take the place of streams: nothing is copied, the state
  is as large as that of a residual network. Slot i of the branch input is `sum_j read[i, j] X[j]`
  (Eq. 8); fraction i of the branch output goes to fraction i alone, times `write[i]`, so only the
  diagonal of the write learns. It starts as the Pre-Norm residual network, bit by bit (Eq. 15).

  With `num_streams = r * m` there are r copies of every fraction, stream j holding fraction
  `j mod m`: hyper-connections on fractions.

  Parameters, n = m: `m(2m+1)` static; `|norm| + (d/m)(2m+1) + m(2m+1) + 2` dynamic.

  Attributes:
    fractions: m; divides the width. The paper uses 2 and 4.
    num_streams: n, a multiple of m; None is m, the paper's.
    dynamic: DFC if true, SFC if false.
  """

  source: ClassVar[str] = "arXiv 2503.14125, Eq. 6-15 and Algorithm 1"
  num_streams: int | None = None
  fractions: int = 4

  def __post_init__(self) -> None:
    if self.num_streams is None:
      self.num_streams = self.fractions
    super().__post_init__()

  def check(self) -> None:
    super(HyperConnection, self).check()
    if self.num_streams % self.fractions:
      raise ValueError(
        f"num_streams={self.num_streams} is no multiple of fractions={self.fractions}; leave it "
        "unset, or use GeneralizedHyperConnection"
      )
