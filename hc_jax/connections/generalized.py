"""Generalised hyper-connections: n streams, each 1/m as wide as the branch."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.connections.declare import Param
from hc_jax.connections.per_stream import PerStreamConnection


class GeneralizedHyperConnection(PerStreamConnection):
  """Generalised hyper-connections (GHC, DGHC) of Virtual Width Networks, arXiv 2511.11238, Eq. 6.

  The width is cut into m fractions, and there are n >= m streams of that width, so that the state
  is n/m times as wide as the backbone. Every slot of the branch may read and write every stream.
  Hyper-connections are the case m = 1, Frac-Connections n = m with a diagonal write. The dynamic
  form (DGHC) uses RMSNorm, divides by sqrt(w) before the tanh, and has a scale for every
  coefficient, which starts at one.

  The paper widens the embedding and narrows the output with learned matrices. Here `expand` copies
  fraction `j mod m` into stream j, and `reduce` sums the copies. The network then starts as the
  Pre-Norm residual network for every n and m.

  Calls and `write` are those of `Connection`, with `w = d / m`. Parameters: `mn + n(m+n)` static;
  dynamic adds `(d/m)(2m+n) + |norm|` and `mn + n(m+n)` scales.

  Attributes:
    num_streams: n, which the paper calls slots.
    fractions: m, the number of fractions; it divides the width, but need not divide n.
    dynamic: whether maps depend on the token: DGHC if true, GHC if false.
    dynamic_scale_init: initial value of the dynamic scales.

  Raises:
    ValueError: by `check`, if `num_streams` is below `fractions` or a field refuses its value.
  """

  source: ClassVar[str] = "arXiv 2511.11238, Eq. 6 and Appendix B"
  num_streams: int = 3
  fractions: int = 2
  norm: str = "rmsnorm"
  dynamic_scale_init: float = 1.0

  @property
  def write_columns(self) -> int:
    return self.fractions

  def declare_scales(self) -> dict[str, Param]:
    n, init = self.num_streams, nn.initializers.constant(self.dynamic_scale_init)
    return {
      "read_scale": Param((self.slots, n), init, "read", trains=self.train_read_mix),
      "mix_scale": Param((n, n), init, "mix", trains=self.train_read_mix),
      "write_scale": Param((n, self.fractions), init, "write", trains=self.train_write),
    }

  def scales_of(self, small: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return jnp.concatenate([small["read_scale"], small["mix_scale"]]), small["write_scale"]

  @nn.nowrap
  def _temperature(self, w: int) -> float:
    return w**-0.5
