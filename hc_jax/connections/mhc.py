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

      logits = scale * (rmsnorm(vec X) @ kernel) + bias       for read, write and mix, each its own
      read = sigmoid(logits)      write = 2 sigmoid(logits)      mix = sinkhorn(logits)

  Rows of the mix sum to one, which bounds the forward gain over depth. Columns sum to one as far as
  Sinkhorn has converged, which bounds the backward gain. If the network ends in the sum of its
  streams, the last site's mix has no effect and no gradient, except as far as its columns do not
  sum to one.

  The paper does not publish the initial kernels and biases. The field `bias_init` offers
  those of implementations: "uniform" is MaxText's and Megatron-LM's, "onehot" (with zero kernels)
  that of the authors of mHC-lite. The default, "identity", has mix logits of 0 on the diagonal and
  -8 off it.

  Calls and `write` are those of `Connection`. Parameters for n > 1: `(nd + 1)(n^2 + 2n) + 3`; `nd`
  more with `norm_params`.

  Attributes:
    form: "paper", or "deepseek_v4" as shipped there: Sinkhorn starts from a softmax, and 1e-6 is
      added to that softmax, to every sum and to the read. Its `comb` is the transpose of mix.
    sinkhorn_steps: number of Sinkhorn steps, the paper's t_max.
    sinkhorn_gradient: "exact", the gradient of the steps, or "implicit", the gradient of their
      limit. They differ where the steps have not converged. Near the identity each step undoes
      only a small part of a change, so that the exact gradient is close to that of unconstrained
      rows.

  Raises:
    ValueError: by `check`, if `fractions` is not 1 or a field refuses its value.
  """

  form: str = field("paper", choices=("paper", "deepseek_v4"))
  sinkhorn_steps: int = field(20, least=1)
  sinkhorn_gradient: str = field("exact", choices=ops.SINKHORN_GRADIENTS)

  @property
  def eps(self) -> float:
    """Number that the form adds to sums and to the read."""
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
