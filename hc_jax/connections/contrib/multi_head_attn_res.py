"""Attention residuals with heads: each part of the width has a softmax of its own over outputs."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.attn_res import AttentionResiduals
from hc_jax.connections.declare import Param
from hc_jax.connections.ends import own_fractions
from hc_jax.connections.facts import Facts
from hc_jax.fields import field


class MultiHeadAttentionResiduals(AttentionResiduals):
  """Multi-head attention residuals (MHAR), full and block, arXiv 2607.27230.

      u_h = sum_j softmax_j(s)_jh v_jh      s_jh = <query_h, (scale * rmsnorm(v_j))_h>      (Eq. 3)

  Sources, slots and writes are those of `AttentionResiduals`. The width is cut into H heads, and
  each has a softmax of its own over the slots; keys are normed over the whole width. With one head
  it is attention residuals. The network ends in one more such read (`reduce="depth"`).

  The heads are the connection's `fractions`: stream `j H + h` holds head h of slot j. A read has H
  rows over all `n` streams. Most entries are zero, so that it does H times the necessary work.

  The paper and its code were read in a public copy. Both start the query at N(0, 0.02^2), like all
  weights. Here the query at the end starts at zero, as in `AttentionResiduals`. The paper's listing
  seems to norm over a head; its equation, its kernels and the code norm over the whole width.

  Parameters: `2d`, and `2d` once more at the end, for every H.

  Attributes:
    num_streams: n = H (ceil(num_sites / B) + 1); computed from the depth where it is unset.
    fractions: H, a divisor of the width; the paper uses the number of key-value heads, 4 to 8.
    query_init_std: standard deviation of the initial query.
  """

  fractions: int = field(4, least=1)
  query_init_std: float = field(0.02, least=0)

  def check(self) -> None:
    self._check_depth()

  def facts(self, d_model: int) -> Facts:
    spread = self.query_init_std * (d_model / self.fractions) ** 0.5
    return Facts(
      source="arXiv 2607.27230, Eq. 3",
      residual_at_init=0.1 + spread,
      note="each head reads nearly the mean of the filled slots, the residual state divided by "
      "their number; random queries and eps in norms make the logits differ",
    )

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    del index
    heads, normal = (self.fractions, width), nn.initializers.normal(self.query_init_std)
    return {
      "depth_query": Param((self.num_views, *heads), normal, "read", axes=(None, None, "embed")),
      "norm_scale": Param(heads, nn.initializers.ones, "read", axes=(None, "embed")),
    }

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    return ops.Generator(
      kernel=own_fractions(params["depth_query"]),
      scale=params["norm_scale"],
      bias=None,
      small=self.places(index),
      finish=self.finisher(),
      norm="rmsnorm",
      eps=self.norm_eps,
      norm_over="group",
    )

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    *lead, slots, _ = logits.shape
    n, heads = self.num_streams, jnp.eye(self.fractions, dtype=jnp.float32)
    weights = self.choose(logits, small["sources"]).swapaxes(-1, -2)  # `[..., v H, slots]`
    own = ops.lift(jnp.tile(heads, (self.num_views, 1))[:, None, :], logits.ndim + 1)
    read = (weights[..., None] * own).reshape(*lead, self.slots, n)
    place = jax.nn.one_hot(small["slot"], slots, dtype=jnp.float32)
    write = (place[:, None, None] * heads[None]).reshape(n, self.fractions)
    return Coefs(read, write, None, slot=small["slot"])
