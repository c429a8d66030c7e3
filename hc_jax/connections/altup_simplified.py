"""Simplified AltUp: branch outputs go to the streams in turn, and every site reads a sum of all."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection, check_one_fraction
from hc_jax.connections.declare import Param
from hc_jax.connections.facts import Facts


class SimplifiedAltUp(Connection):
  """Simplified AltUp, the cheapest member of the family in Qwen3.8-Next's report.

      u = sum_i h[i] X[i];   X'[i] = X[i] + (F(u) if i = index mod n else 0)

  Each site has n static numbers h. It reads with them and writes into one stream alone; streams
  are not mixed. h starts as ones, and the embedding goes into stream 0 (`Expand(kind="first")`).
  The streams are then parts of one sum, and the network starts as the Pre-Norm residual network.
  With copies of the embedding it could not: n streams would hold the embedding, but only one
  stream holds each output.

  The report (arXiv 2608.30320, section 2.2) could not be read. The equations follow a summary,
  which gives neither the initial h nor the first streams.

  Calls and `write` are those of `Connection`. Parameters: n; with V views `V n`.

  Raises:
    ValueError: by `check`, if `fractions` is not 1 or a field refuses its value.
  """

  expand_kind: ClassVar[str] = "first"

  def check(self) -> None:
    check_one_fraction(self)
    super().check()

  def facts(self, d_model: int) -> Facts:
    del d_model
    return Facts(
      source="arXiv 2608.30320, section 2.2, by a summary",
      residual_at_init=1e-5,
      note="starts as the residual network where stream 0 alone begins with the embedding; from "
      "copies it starts as one whose embedding counts n times",
    )

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    del width, index
    shape = (self.num_views, self.num_streams)
    return {"static_read": Param(shape, nn.initializers.ones, maps="read")}

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    small = {**params, "slot": jnp.asarray(index, jnp.int32) % self.num_streams}
    return ops.Generator(None, None, None, small, self.finisher())

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    del logits
    slot = small["slot"]
    write = jax.nn.one_hot(slot, self.num_streams, dtype=jnp.float32)[:, None]
    return Coefs(read=small["static_read"], write=write, mix=None, slot=slot)
