"""Frac-Connections: hyper-connections on fractions of the width."""

from typing import ClassVar

from hc_jax.connections.hyper import HyperConnection


class FracConnection(HyperConnection):
  """Static and dynamic Frac-Connections, arXiv 2503.14125, Eq. 6-15.

  The width is cut into m fractions, which serve as the streams. Nothing is copied, so that the
  state is as large as that of a residual network. Slot i of the branch input is
  `sum_j read[i, j] X[j]` (Eq. 8). Slot i of the branch output goes to fraction i alone, times
  `write[i]`: only the diagonal of the write learns. It starts as the Pre-Norm residual network,
  bit for bit (Eq. 15).

  With `num_streams = r * m` there are r copies of every fraction, and stream j holds fraction
  `j mod m`: hyper-connections on fractions.

  Calls and `write` are those of `Connection`, with `w = d / m`. Parameters for n = m:
  `m(2m+1)` static; `|norm| + (d/m)(2m+1) + m(2m+1) + 2` dynamic, with |norm| the parameters of
  the norm.

  Attributes:
    fractions: m, a divisor of the width. The paper uses 2 and 4.
    num_streams: n, a multiple of m; None means m, as in the paper.
    dynamic: whether maps depend on the token: DFC if true, SFC if false.

  Raises:
    ValueError: by `check`, if `num_streams` is not a multiple of `fractions`.
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
        f"num_streams={self.num_streams} is not a multiple of fractions={self.fractions}; leave it "
        "unset, or use GeneralizedHyperConnection"
      )
