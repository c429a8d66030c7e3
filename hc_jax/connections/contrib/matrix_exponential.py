"""Hyper-connections whose mix is the flow of a small linear system over a learned time."""

import dataclasses

import jax
import jax.numpy as jnp

from hc_jax.connections.contrib.small_matrices import identity, matmul, solve
from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import GatedConnection

SQUARINGS = 4
SHORTEST = 1e-3


class ContinuousHC(GatedConnection):
  """Gated connection whose mix is a matrix exponential (CGHC of pjjajal/hyperconnections).

      mix = exp(t_c (M - M^T) - t_d R R^T / sqrt(n))      t between 0.001 and 1, by a sigmoid

  M and R are n x n logits each. The first term rotates and conserves, the second only shrinks, so
  that streams are never amplified. Read and write are gates as in `GatedConnection`. M and R start
  at zero, where the mix is the identity. There R gets a gradient only through the noise of the
  kernels. The equations follow the code at commit 94d8bf0; no paper was read.

  Parameters for n > 1: `(nd + 1)(2n + 2n^2 + 2) + 3`; `nd` more with `norm_params`.
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
  """Returns the matrix exponential of `a` `[..., n, n]`, to 5e-6 for norms up to 4.

  It computes Pade's approximant of order three of `a / 16` and squares it four times. If `a` only
  rotates and shrinks, so does the result, for norms up to 50.
  """
  a = a / 2**SQUARINGS
  eye, square = identity(a.shape[-1], a.ndim), matmul(a, a)
  even, odd = eye + square / 10, a / 2 + matmul(square, a) / 120
  total = solve(even - odd, even + odd)
  for _ in range(SQUARINGS):
    total = matmul(total, total)
  return total
