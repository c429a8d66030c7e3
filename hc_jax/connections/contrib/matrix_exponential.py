"""A mix that is the flow of a small linear system over a learned time."""

import dataclasses

import jax
import jax.numpy as jnp

from hc_jax.connections.contrib.small_matrices import identity, matmul, solve
from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import GatedConnection

SQUARINGS = 4
SHORTEST = 1e-3


class ContinuousHC(GatedConnection):
  """A mix by the matrix exponential (CGHC), by the code of pjjajal/hyperconnections at 94d8bf0.

      mix = exp(t_c (M - M^T) - t_d R R^T / sqrt(n))      t between 0.001 and 1, by a sigmoid

  M and R are n x n logits each: a rotation that conserves, and a part that only shrinks, so that
  streams are never amplified. Gates as in `GatedConnection`; M and R start at zero, where the mix
  is the identity, and R learns from what the kernels add. No paper was read.

  Parameters, n > 1: `(nd + 1)(2n + 2n^2 + 2) + 3`; `nd` more with `norm_params`.
  """

  def facts(self, d_model: int) -> Facts:
    source = "pjjajal/hyperconnections at 94d8bf0"
    return dataclasses.replace(super().facts(d_model), source=source)

  def num_mix_logits(self) -> int:
    return 2 * self.num_streams**2 + 2 if self.num_streams > 1 else 0

  def mix_of_zeros(self) -> str:
    return "is the identity"

  def mix_bias(self) -> jax.Array:
    return jnp.zeros(self.num_mix_logits(), jnp.float32)

  def mix_of(self, logits: jax.Array) -> jax.Array:
    n = self.num_streams
    square = (*logits.shape[:-1], n, n)
    turn, shrink = (logits[..., k * n * n : (k + 1) * n * n].reshape(square) for k in range(2))
    times = SHORTEST + (1 - SHORTEST) * jax.nn.sigmoid(logits[..., 2 * n * n :])[..., None, None]
    rotation = times[..., 0, :, :] * (turn - turn.swapaxes(-1, -2))
    decay = times[..., 1, :, :] * matmul(shrink, shrink.swapaxes(-1, -2)) / n**0.5
    return exponential(rotation - decay)


def exponential(a: jax.Array) -> jax.Array:
  """Returns the matrix exponential, to 5e-6 for norms up to 4, `[..., n, n]`.

  It is Pade's fraction of order three of a sixteenth, squared four times: of what turns and shrinks
  it makes nothing that grows, for norms up to 50.
  """
  a = a / 2**SQUARINGS
  eye, square = identity(a.shape[-1], a.ndim), matmul(a, a)
  even, odd = eye + square / 10, a / 2 + matmul(square, a) / 120
  total = solve(even - odd, even + odd)
  for _ in range(SQUARINGS):
    total = matmul(total, total)
  return total
