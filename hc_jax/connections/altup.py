"""Alternating updates, as the hyper-connection that they are."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection, check_one_fraction
from hc_jax.connections.declare import Param, value
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
    return Facts(
      source="arXiv 2301.13310, Algorithm 1; arXiv 2409.19606, Table 4", residual_at_init=1e-5
    )

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    del width, index
    n = self.num_streams
    return {
      "static_predict": Param((n, n), value(np.eye(n, dtype=np.float32))),
      "static_gate": Param((n, 1), nn.initializers.ones),
    }

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    j = jnp.asarray(index) % self.num_streams
    chosen = jax.nn.one_hot(j, self.num_streams, dtype=jnp.float32)[None]
    # Row j of the prediction as it is: no contraction that could be rounded.
    row = jax.lax.dynamic_index_in_dim(params["static_predict"], j, axis=0)
    small = {**params, "chosen": chosen, "row": row}
    return ops.Generator(None, None, None, small, self.finisher())

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    del logits
    # (I - g e^T) P + g e^T.
    gate, chosen = small["static_gate"], small["chosen"]
    mix = small["static_predict"] + gate * (chosen - small["row"])
    return Coefs(read=jnp.tile(chosen, (self.num_views, 1)), write=gate, mix=mix)
