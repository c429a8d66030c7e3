"""The plain residual connection, written as a connection without parameters."""

from collections.abc import Mapping

import jax

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection
from hc_jax.connections.declare import Param
from hc_jax.connections.facts import Facts


class Residual(Connection):
  """The residual connection `x' = x + F(x)`: one stream, all weights one (2409.19606 Eq. 15).

  It compiles to the plain addition, so that comparisons can run their baseline by the same code.

  Calls and `write` are those of `Connection`, with streams `[..., 1, d]`. It has no parameters.

  Raises:
    ValueError: by `check`, if `num_streams` or `fractions` is not 1.
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
