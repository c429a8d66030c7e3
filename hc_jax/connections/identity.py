"""Identity hyper-connections: gates, and no mixing."""

import dataclasses

from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import GatedConnection


class IdentityHC(GatedConnection):
  """Identity HC: mHC (arXiv 2512.24880) with the identity for its mix, an ablation of that paper.

  With the default `bias_init="identity"` it starts as the implementation shipped in Hy4-preview:
  reads of 1/n, writes of one, and small normal kernels.

  Parameters, n > 1: `2n(nd + 1) + 2`; `nd` more with `norm_params`.
  """

  def facts(self, d_model: int) -> Facts:
    return dataclasses.replace(
      super().facts(d_model), source="arXiv 2512.24880, Eq. 3 and 7-8, with H_res = I"
    )
