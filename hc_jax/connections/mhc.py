"""Manifold-constrained hyper-connections: the mix is doubly stochastic."""

import dataclasses

import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import FAR, GatedConnection
from hc_jax.fields import field

_EPS = 1e-6  # DeepSeek-V4's hc_eps


class MHC(GatedConnection):
  """Manifold-constrained hyper-connections (mHC), arXiv 2512.24880, Eq. 3 and 7-9.

  Gates as in `GatedConnection`, and `mix = sinkhorn(logits)`: rows of the mix sum to one, which
  bounds the forward gain over depth, and columns nearly, which bounds the backward gain. With the
  sum as reduce, the last site's mix has no effect and gets no gradient, but for what its columns
  lack.

  The paper publishes neither kernels nor biases at init; `bias_init` offers what implementations
  do: "uniform" is that of MaxText and Megatron-LM, "onehot" (with its zero kernels) that of the
  authors of mHC-lite, and "identity" the one with a logit of 0 on the diagonal and -8 off it.

  Parameters, n > 1: `(nd + 1)(n^2 + 2n) + 3`; `nd` more with `norm_params`.

  Attributes:
    form: "paper", or "deepseek_v4": as shipped there, which starts from a softmax, adds 1e-6 to it
      and to every sum, and 1e-6 to the read. Its `comb` is the transpose of mix.
    sinkhorn_steps: the paper's t_max.
    sinkhorn_gradient: "exact", of these very steps, or "implicit", of their limit. They differ
      where the steps have not converged: with a mix near the identity each step takes back only a
      small part of a change, and the exact gradient is that of nearly free rows.
  """

  form: str = field("paper", choices=("paper", "deepseek_v4"))
  sinkhorn_steps: int = field(20, least=1)
  sinkhorn_gradient: str = field("exact", choices=ops.SINKHORN_GRADIENTS)

  @property
  def eps(self) -> float:
    """What the form adds to sums and read."""
    return _EPS if self.form == "deepseek_v4" else 0.0

  def facts(self, d_model: int) -> Facts:
    facts = super().facts(d_model)
    return dataclasses.replace(
      facts,
      source="arXiv 2512.24880, Eq. 3 and 7-9",
      mix_rows_sum_to_one=1e-5 if self.eps else 1e-6,
      note=f"{facts.note}; columns of the mix sum to one as far as Sinkhorn has converged",
    )

  def num_mix_logits(self) -> int:
    n = self.num_streams
    return n * n if n > 1 else 0

  def mix_bias(self) -> jax.Array:
    return (FAR * (1 - jnp.eye(self.num_streams, dtype=jnp.float32))).reshape(-1)

  def mix_of(self, logits: jax.Array) -> jax.Array:
    n = self.num_streams
    return ops.sinkhorn(
      logits.reshape(*logits.shape[:-1], n, n),
      steps=self.sinkhorn_steps,
      eps=self.eps,
      gradient=self.sinkhorn_gradient,
      derivatives=self.derivatives,
    )

  def read_of(self, logits: jax.Array) -> jax.Array:
    return super().read_of(logits) + self.eps
