"""sHC: hyper-connections whose mix keeps the mean of the streams and has spectral norm one."""

import dataclasses

import jax
import jax.numpy as jnp

from hc_jax.connections.contrib.small_matrices import HIGHEST, cayley, matmul, skew
from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import GatedConnection

NEAR_ONE = 4.0  # the authors' initial bias of the singular values; tanh(4) is 0.99933


class SpectralSphereHC(GatedConnection):
  """Spectral-sphere hyper-connections (sHC), arXiv 2603.20896.

      mix = J / n + Z @ U @ diag(tanh s) @ V^T @ Z^T

  J is all ones. Z `[n, n - 1]` is the Helmert basis of the vectors that sum to zero. U and V are
  rotations by Cayley's transform, and s the singular values before tanh. Rows and columns sum to
  one, entries may be negative, and the spectral norm is one: streams are never amplified.

  Read and write are gates as in `GatedConnection`. The authors' code takes tanh of the sum of
  dynamic and static angles and has a scale for each of U, V and s. Here the mix has one scale, and
  angles are unbounded.

  Parameters for n > 1: `(nd + 1)(2n + (n - 1)^2) + 3`; `nd` more with `norm_params`.
  """

  def facts(self, d_model: int) -> Facts:
    facts = super().facts(d_model)
    near = facts.residual_at_init
    return dataclasses.replace(
      facts,
      source="arXiv 2603.20896",
      mix_rows_sum_to_one=5e-6,
      mix_columns_sum_to_one=5e-6,
      residual_at_init=None if near is None else near + 1e-3,
    )

  def num_mix_logits(self) -> int:
    return (self.num_streams - 1) ** 2

  def mix_bias(self) -> jax.Array:
    angles = (self.num_streams - 1) * (self.num_streams - 2)
    return jnp.pad(jnp.full(self.num_streams - 1, NEAR_ONE, jnp.float32), (angles, 0))

  def mix_of(self, logits: jax.Array) -> jax.Array:
    n = self.num_streams
    angles = (n - 1) * (n - 2) // 2
    left, right = (
      cayley(skew(logits[..., k * angles : (k + 1) * angles], n - 1)) for k in range(2)
    )
    sizes = jnp.tanh(logits[..., 2 * angles :])
    core = matmul(left * sizes[..., None, :], right.swapaxes(-1, -2))
    basis = helmert(n)
    kept = jnp.einsum("ia,...ab,jb->...ij", basis, core, basis, precision=HIGHEST)
    return kept + 1 / n


def helmert(n: int) -> jax.Array:
  """Returns an orthonormal basis of the vectors that sum to zero, float32 `[n, n - 1]`."""
  shape = (n, n - 1)
  row, column = (jax.lax.broadcasted_iota(jnp.float32, shape, axis) for axis in range(2))
  above = column + 1  # number of entries above the last non-zero entry of a column
  entries = jnp.where(row < above, 1.0, jnp.where(row == above, -above, 0.0))
  return entries / jnp.sqrt(above * (above + 1))
