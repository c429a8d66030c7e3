"""Alternating updates (AltUp), written as a hyper-connection."""

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
  """AltUp (arXiv 2301.13310, Algorithm 1): predict all blocks, compute one, correct all.

  The K = num_streams blocks of the paper are the streams. A site predicts `x' = P x`. The branch
  runs on block j alone, j = index mod K: `y = x_j + F(x_j)`. Every block i is then corrected to
  `x'_i + g_i (y - x'_j)`. Because a branch of this package has no residual of its own, that is the
  static hyper-connection with `read = e_j`, `mix = (I - g e_j^T) P + g e_j^T` and `write = g`.
  P starts as the identity and g as ones, which is the Pre-Norm residual network.

  Calls and `write` are those of `Connection`. Parameters: `K^2 + K`.

  Raises:
    ValueError: by `check`, if `fractions` is not 1 or a field refuses its value.
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
    # Row j is sliced, because a product with the one-hot vector could be rounded.
    row = jax.lax.dynamic_index_in_dim(params["static_predict"], j, axis=0)
    small = {**params, "chosen": chosen, "row": row}
    return ops.Generator(None, None, None, small, self.finisher())

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    del logits
    # (I - g e^T) P + g e^T.
    gate, chosen = small["static_gate"], small["chosen"]
    mix = small["static_predict"] + gate * (chosen - small["row"])
    return Coefs(read=jnp.tile(chosen, (self.num_views, 1)), write=gate, mix=mix)
