"""The plain residual connection, as the connection that learns nothing."""

from collections.abc import Mapping

import jax

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection
from hc_jax.connections.declare import Param
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
    return Facts(source="arXiv 2409.19606, Eq. 15", residual_at_init=1e-5)

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    del width, index
    return {}

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    del params, index
    return ops.Generator(None, None, None, {}, self.finisher())

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    del logits, small
    return self.plain_coefs()
