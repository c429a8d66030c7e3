"""Identity hyper-connections: gated read and write, and no mixing."""

import dataclasses

from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import GatedConnection


class IdentityHC(GatedConnection):
  """Identity HC: mHC (arXiv 2512.24880) with the identity as its mix, an ablation in that paper.

  Read and write are the gates of mHC, Eq. 7-8: `sigmoid` and `2 sigmoid` of
  `scale * (rmsnorm(vec X) @ kernel) + bias`. With the default `bias_init="identity"` it starts as
  the implementation shipped in Hy4-preview: reads of 1/n, writes of one, small normal kernels.

  Calls and `write` are those of `Connection`. Parameters for n > 1: `2n(nd + 1) + 2`; `nd` more
  with `norm_params`.

  Raises:
    ValueError: by `check`, if `fractions` is not 1 or a field refuses its value.
  """

  def facts(self, d_model: int) -> Facts:
    return dataclasses.replace(
      super().facts(d_model), source="arXiv 2512.24880, Eq. 3 and 7-8, with H_res = I"
    )
