"""KromHC: the mix is a Kronecker product of 2 x 2 doubly stochastic matrices."""

import dataclasses

import jax
import jax.numpy as jnp

from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import FAR, GatedConnection


class KromHC(GatedConnection):
  """KromHC, arXiv 2601.21579: an exactly doubly stochastic mix, made from 2 log2(n) logits.

  Read and write are gates as in `MHC`. `mix = U_K x ... x U_1` (Kronecker product), K = log2(n),
  with `U_k = [[p, 1 - p], [1 - p, p]]` and `p, 1 - p = softmax(logits[2k - 2 : 2k])`. All factors
  share one scale. Such mixes are symmetric and commute, so none is a cycle of three or four
  streams. The defaults start as the authors' code: "onehot" biases with zero kernels.

  Calls and `write` are those of `Connection`. Parameters for n > 1:
  `nd(2n + 2 log2 n) + 2n + 2 log2 n + 3`; `nd` more with `norm_params`, as the authors have.

  Attributes:
    num_streams: n, a power of two.

  Raises:
    ValueError: by `check`, if `num_streams` is not a power of two or `fractions` is not 1.
  """

  bias_init: str = "onehot"

  @property
  def factors(self) -> int:
    """K, the number of 2 x 2 matrices."""
    return self.num_streams.bit_length() - 1

  def check(self) -> None:
    super().check()
    n = self.num_streams
    if n != 1 << self.factors:
      raise ValueError(
        f"num_streams={n} is not a power of two, and KromHC makes its mix from 2 x 2 factors; "
        f"choose num_streams={1 << self.factors} or {2 << self.factors}, or MHC"
      )

  def facts(self, d_model: int) -> Facts:
    return dataclasses.replace(
      super().facts(d_model),
      source="arXiv 2601.21579",
      mix_rows_sum_to_one=2e-6,
      mix_columns_sum_to_one=2e-6,
    )

  def num_mix_logits(self) -> int:
    return 2 * self.factors

  def mix_bias(self) -> jax.Array:
    return jnp.tile(jnp.array([0.0, FAR], jnp.float32), self.factors)

  def mix_of(self, logits: jax.Array) -> jax.Array:
    weights = jax.nn.softmax(logits.reshape(*logits.shape[:-1], self.factors, 2))
    factors = jnp.stack([weights, weights[..., ::-1]], axis=-2)  # [..., K, 2, 2]
    mix = factors[..., 0, :, :]
    for k in range(1, self.factors):
      blocks = factors[..., k, :, :, None, None] * mix[..., None, None, :, :]
      rows = [jnp.concatenate([blocks[..., a, b, :, :] for b in (0, 1)], axis=-1) for a in (0, 1)]
      mix = jnp.concatenate(rows, axis=-2)
    return mix
