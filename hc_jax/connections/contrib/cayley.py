"""Hyper-connections whose mix is a rotation, by Cayley's transform."""

import dataclasses

import jax
import jax.numpy as jnp

from hc_jax.connections.contrib.small_matrices import cayley, skew
from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import GatedConnection


class CayleyHC(GatedConnection):
  """Gated connection with a mix in SO(n): `(I + A)^-1 (I - A)`, A skew-symmetric, as in JPmHC.

  Read and write are gates as in `GatedConnection`. Logits of zero give the identity, and the biases
  of the mix start at zero for every `bias_init`. A rotation keeps the norm and the rank of the
  streams, but not their sum.
  The transform reaches all rotations except those by exactly 180 degrees.

  Of arXiv 2602.18308 only the abstract was read: the transform is the textbook's, the gates are
  mHC's.

  Parameters for n > 1: `(nd + 1)(2n + n(n - 1)/2) + 3`; `nd` more with `norm_params`.
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
