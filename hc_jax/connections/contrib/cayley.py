"""A mix that is a rotation, by Cayley's transform."""

import dataclasses

import jax
import jax.numpy as jnp

from hc_jax.connections.contrib.small_matrices import cayley, skew
from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import GatedConnection


class CayleyHC(GatedConnection):
  """A mix in SO(n): `(I + A)^-1 (I - A)` of a skew-symmetric A, as JPmHC has it.

  Gates as in `GatedConnection`. Logits of zero are the identity, and the mix of every `bias_init`.
  A rotation loses nothing of what distinguishes streams, but does not keep their sum. Rotations by
  exactly 180 degrees are not among them.

  arXiv 2602.18308 was read as an abstract: the transform is the textbook's, the gates are mHC's.

  Parameters, n > 1: `(nd + 1)(2n + n(n - 1)/2) + 3`; `nd` more with `norm_params`.
  """

  def facts(self, d_model: int) -> Facts:
    return dataclasses.replace(
      super().facts(d_model), source="arXiv 2602.18308, abstract", mix_is_orthogonal=5e-6
    )

  def num_mix_logits(self) -> int:
    return self.num_streams * (self.num_streams - 1) // 2

  def mix_of_zeros(self) -> str:
    return "is the identity"

  def mix_bias(self) -> jax.Array:
    return jnp.zeros(self.num_mix_logits(), jnp.float32)

  def mix_of(self, logits: jax.Array) -> jax.Array:
    return cayley(skew(logits, self.num_streams))
