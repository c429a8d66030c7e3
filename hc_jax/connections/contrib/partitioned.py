"""Partitioned hyper-connections: attention and feed-forward read streams of their own."""

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
from hc_jax.fields import field

TO_FEED_FORWARD = 1.5  # initial weight with which attention writes into feed-forward's stream


class PartitionedHC(Connection):
  """Partitioned hyper-connections, the parallel residuals of modded-nanogpt.

      X'[s] = lambda * X[s] + write[s] * F(X[a])     a = 0 for attention, 1 for feed-forward

  Attention reads stream 0 and feed-forward stream 1; both write into both streams. The maps are
  static. The streams separate at block `first_block`. Before it, both streams use `write[0]`, so
  that they are equal, and `write[1]` has no effect. The network ends in the mean of the streams.

  lambda starts at the root of 1.1 and writes at one, except that attention writes 1.5 into stream
  1. The equations follow no paper, but pull request 230 of KellerJordan/modded-nanogpt
  (February 2026) and copies of its code. In that code attention before `first_block` writes without
  a weight. Its backout and its sums with the embedding are left out here: see `hc_jax.X0Lambdas`.

  Parameters: 3.

  Attributes:
    num_streams: 2.
    first_block: block, from 0, at which the streams separate; None means 7/11 of the blocks,
      rounded down, as in the code.
    num_sites: number of sites of the whole network; a model of this package fills it in.
    sites_per_block: number of sites of a block, which must be 2; a model of this package fills it
      in.
  """

  reduce_kind: ClassVar[str] = "mean"
  needs: ClassVar[tuple[str, ...]] = ("num_sites",)

  num_streams: int = 2
  first_block: int | None = field(None, least=0)
  num_sites: int | None = field(None, least=1)
  sites_per_block: int | None = None

  def check(self) -> None:
    check_one_fraction(self)
    super().check()
    if self.num_streams != 2:
      raise ValueError(
        f"num_streams={self.num_streams}: PartitionedHC has one stream for attention and one for "
        "feed-forward; leave num_streams unset"
      )
    if self.sites_per_block not in (None, 2):
      raise ValueError(
        f"sites_per_block={self.sites_per_block}: PartitionedHC needs blocks of two sites, "
        'attention and feed-forward; choose block="sequential"'
      )
    if self.num_sites is not None and self.num_sites % 2:
      raise ValueError(
        f"num_sites={self.num_sites} is odd, and PartitionedHC has blocks of two sites; give the "
        "sites of whole blocks"
      )
    first = self.first_block
    if first is not None and self.num_sites is not None and first >= self.num_sites // 2:
      raise ValueError(
        f"first_block={first} is not one of {self.num_sites // 2} blocks; choose one from 0 to "
        f"{self.num_sites // 2 - 1}, or leave it unset"
      )

  def facts(self, d_model: int) -> Facts:
    del d_model
    return Facts(
      source="KellerJordan/modded-nanogpt, pull request 230",
      note="does not start as the residual network: every site multiplies the state by the root of "
      "1.1, and attention writes 1.5 times its output into the stream of feed-forward",
    )

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    del width

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array:
      del key
      is_attention = jnp.asarray(index, jnp.int32) % 2 == 0
      other = jnp.where(is_attention, TO_FEED_FORWARD, 1.0)
      return jnp.stack([jnp.ones_like(other), other]).reshape(shape).astype(dtype)

    return {
      "static_write": Param((2,), init, "write"),
      "mix_scale": Param((1,), nn.initializers.constant(1.1**0.5), "mix"),
    }

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    index = jnp.asarray(index, jnp.int32)
    first = self.num_sites // 2 * 7 // 11 if self.first_block is None else self.first_block
    small = {**params, "stream": index % 2, "apart": index // 2 >= first}
    return ops.Generator(None, None, None, small, self.finisher())

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    del logits
    read = jax.nn.one_hot(small["stream"], 2, dtype=jnp.float32)[None]
    write = jnp.where(small["apart"], small["static_write"], small["static_write"][:1])
    return Coefs(
      read=jnp.tile(read, (self.num_views, 1)),
      write=write[:, None],
      mix=small["mix_scale"][:, None] * jnp.eye(2, dtype=jnp.float32),
    )
