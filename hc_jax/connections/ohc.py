"""Orthogonal hyper-connections: the mix is a rotation."""

import dataclasses

import jax
import jax.numpy as jnp

from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import GatedConnection

_EPS = 1e-12  # Keeps the norm of a zero quaternion off zero; next to 1 in float32 it has no effect.


class OrthogonalHC(GatedConnection):
  """Orthogonal hyper-connections (oHC), arXiv 2609.02672: four streams, and a mix in SO(4).

  Read and write are gates as in `MHC`. The mix, `L(q) R(conj(r))`, multiplies by a unit quaternion
  from the left and by another from the right: `q` is `(1 + l0, l1, l2, l3)` and `r` is
  `(1 + l4, l5, l6, l7)`, normalised, for the logits l. Logits of zero give the identity bit for
  bit. The biases of the mix start at zero for every `bias_init`, so that it starts there except for
  the noise of random kernels. A rotation keeps the norm and the rank of the streams over any depth,
  but does not keep their sum.

  The paper allocates 16 logits for the mix, as mHC does, and uses 8; here there are 8. It freezes
  the scale of the mix, which is therefore not a parameter here but the constant `gate_scale_init`.

  Calls and `write` are those of `Connection`. Parameters, with one view: `16(4d + 1) + 2`, one more
  with `train_mix_scale`; `4d` more with `norm_params`.

  Attributes:
    num_streams: 4 (or 1, which has no mix).
    train_mix_scale: whether the scale of the mix is a parameter.

  Raises:
    ValueError: by `check`, if `num_streams` is neither 4 nor 1, or `fractions` is not 1.
  """

  train_mix_scale: bool = False

  def check(self) -> None:
    super().check()
    if self.num_streams not in (1, 4):
      raise ValueError(
        f"OrthogonalHC rotates four streams by a pair of quaternions, not num_streams="
        f"{self.num_streams}; choose num_streams=4, or MHC"
      )

  def facts(self, d_model: int) -> Facts:
    return dataclasses.replace(
      super().facts(d_model), source="arXiv 2609.02672", mix_is_orthogonal=2e-6
    )

  def frozen_scales(self) -> tuple[str, ...]:
    return () if self.train_mix_scale else ("mix",)

  def num_mix_logits(self) -> int:
    return 8 if self.num_streams == 4 else 0

  def mix_of_zeros(self) -> str:
    return "is the identity"

  def mix_bias(self) -> jax.Array:
    return jnp.zeros(8, jnp.float32)

  def mix_of(self, logits: jax.Array) -> jax.Array:
    w, x, y, z = _unit(logits[..., :4])
    left = _matrix([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    w, x, y, z = _unit(logits[..., 4:])
    right = _matrix([[w, x, y, z], [-x, w, -z, y], [-y, z, w, -x], [-z, -y, x, w]])
    return jnp.einsum("...ij,...jk->...ik", left, right, precision=jax.lax.Precision.HIGHEST)


def _unit(logits: jax.Array) -> tuple[jax.Array, ...]:
  """Returns the components `[...]` of the unit quaternion along (1, 0, 0, 0) + logits."""
  one = (jnp.arange(4) == 0).astype(jnp.float32)
  v = logits + one.reshape((1,) * (logits.ndim - 1) + (4,))
  v = v / jnp.sqrt(jnp.sum(jnp.square(v), axis=-1, keepdims=True) + _EPS)
  return tuple(v[..., i] for i in range(4))


def _matrix(rows: list[list[jax.Array]]) -> jax.Array:
  return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
