"""The plain residual connection, as the connection that learns nothing."""

import jax

from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection, plain_coefs
from hc_jax.connections.facts import Facts


class Residual(Connection):
  """`x' = x + F(x)`: one stream, all weights one (2409.19606 Eq. 15, Pre-Norm).

  It compiles to the plain addition. It is the baseline of every comparison, by the same code.
  """

  num_streams: int = 1

  def check(self) -> None:
    if (self.num_streams, self.fractions) != (1, 1):
      raise ValueError(
        f"Residual has one stream and one fraction, not num_streams={self.num_streams}, "
        f"fractions={self.fractions}; leave them unset, or use HyperConnection"
      )
    super().check()

  def facts(self, d_model: int) -> Facts:
    del d_model
    return Facts(source="arXiv 2409.19606, Eq. 15", num_params=0, residual_at_init=1e-5)

  def coefs(self, streams: jax.Array, index: int | jax.Array) -> Coefs:
    del streams, index
    return plain_coefs(self.num_views)
