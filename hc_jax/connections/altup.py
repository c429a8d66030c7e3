"""Alternating updates, as the hyper-connection that they are."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection, check_one_fraction
from hc_jax.connections.facts import Facts


class AltUp(Connection):
  """AltUp (arXiv 2301.13310): predict all blocks, compute one, correct all; K = num_streams.

  `x' = P x`, then block j gets `y = x_j + F(x_j)`, and every block i the correction
  `x'_i + g_i (y - x'_j)`, where j = index mod K alternates. That is a static hyper-connection with
  `read = e_j`, `mix = (I - g e_j^T) P + g e_j^T` and `write = g`, since a branch here has no
  residual of its own. P starts as the identity and g as ones: the Pre-Norm residual network.

  Parameters: `K^2 + K`.
  """

  num_streams: int = 2

  def check(self) -> None:
    check_one_fraction(self)
    super().check()

  def facts(self, d_model: int) -> Facts:
    del d_model
    n = self.num_streams
    return Facts(
      source="arXiv 2301.13310, Algorithm 1; arXiv 2409.19606, Table 4",
      num_params=n * n + n,
      residual_at_init=1e-5,
    )

  @nn.compact
  def coefs(self, streams: jax.Array, index: int | jax.Array) -> Coefs:
    del streams
    n = self.num_streams
    eye = jnp.eye(n, dtype=jnp.float32)
    predict = self.param(
      "static_predict", axes.partitioned(lambda key, shape: eye, None, None), (n, n)
    )
    gate = self.param("static_gate", axes.partitioned(nn.initializers.ones, None, None), (n, 1))
    chosen = jax.nn.one_hot(jnp.asarray(index) % n, n, dtype=jnp.float32)[None]
    # (I - g e^T) P + g e^T, with row j of P as a row: no contraction that could be rounded.
    row = jax.lax.dynamic_index_in_dim(predict, jnp.asarray(index) % n, axis=0)
    mix = predict + gate * (chosen - row)
    return Coefs(read=jnp.tile(chosen, (self.num_views, 1)), write=gate, mix=mix)
