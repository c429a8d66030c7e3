"""mHC-lite: the mix is a weighted mean of permutations."""

import dataclasses
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import FAR, GatedConnection

MAX_STREAMS = 4


class MHCLite(GatedConnection):
  """mHC-lite, arXiv 2601.05732: an exactly doubly stochastic mix, without Sinkhorn.

  Read and write are gates as in `MHC`. `mix = sum_r softmax(logits)_r P_r` over all n! permutations
  in the order of `itertools.permutations`, with `(P_r X)[i] = X[perm_r[i]]`; the first one is the
  identity. Every doubly stochastic matrix is such a mean. The defaults start as the authors' code:
  "onehot" biases with zero kernels.

  Calls and `write` are those of `Connection`. Parameters for n > 1: `nd(n! + 2n) + n! + 2n + 3`;
  `nd` more with `norm_params`, as the authors have.

  Attributes:
    num_streams: n, at most 4, because there are n! permutations.

  Raises:
    ValueError: by `check`, if `num_streams` is above 4 or `fractions` is not 1.
  """

  bias_init: str = "onehot"

  def check(self) -> None:
    super().check()
    n = self.num_streams
    if n > MAX_STREAMS:
      raise ValueError(
        f"MHCLite with num_streams={n} would weigh {math.factorial(n)} permutations per token; "
        f"choose num_streams of at most {MAX_STREAMS}, or KromHC or MHC"
      )

  def facts(self, d_model: int) -> Facts:
    return dataclasses.replace(
      super().facts(d_model),
      source="arXiv 2601.05732",
      mix_rows_sum_to_one=2e-6,
      mix_columns_sum_to_one=2e-6,
    )

  def num_mix_logits(self) -> int:
    return math.factorial(self.num_streams) if self.num_streams > 1 else 0

  def mix_bias(self) -> jax.Array:
    return jnp.full(self.num_mix_logits(), FAR, jnp.float32).at[0].set(0.0)

  def mix_of(self, logits: jax.Array) -> jax.Array:
    weights = jax.nn.softmax(logits)
    return jnp.einsum(
      "...r,rij->...ij", weights, self._permutations(), precision=jax.lax.Precision.HIGHEST
    )

  @nn.nowrap
  def _permutations(self) -> jax.Array:
    """Returns the permutation matrices `[n!, n, n]`.

    They are built from scalars, because a Pallas kernel cannot capture constant arrays.
    """
    streams = jnp.arange(self.num_streams)
    rows = [
      jnp.stack([(streams == j).astype(jnp.float32) for j in permutation])
      for permutation in itertools.permutations(range(self.num_streams))
    ]
    return jnp.stack(rows)
