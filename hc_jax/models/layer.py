"""One transformer layer, for models that stack their layers themselves."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax.connections import ConnectionLike, HyperConnection, connection_factory
from hc_jax.connections.carry import Carry, split
from hc_jax.models.attention import Attention
from hc_jax.models.blocks import Block
from hc_jax.models.layers import Dtype, FeedForward, Norm, TokenContext


class TransformerLayer(nn.Module):
  """Attention and feed-forward, each at a connection of its own, as in `TransformerLM`.

      layer = hc_jax.models.TransformerLayer(num_heads=8, d_ff=2048, connection=hc_jax.MHC)
      streams = layer(streams, i, mask)                  # [B, L, n, w] -> [B, L, n, w]

  Attributes:
    num_heads: number of query heads, a divisor of the width.
    d_ff: inner width of the feed-forward.
    connection: a connection class, a partial of one, or an instance.
    num_kv_heads: number of key and value heads; num_heads if None.
    activation: "gelu" or "swiglu".
    norm: "layernorm" or "rmsnorm".
    norm_params: whether norms have a scale (and layernorm a bias).
    norm_eps: added to the variance.
    norm_position: "pre" or "post". For a connection that norms its read, "pre" adds no norm.
    rotary_theta: base of the rotary wavelengths; None has no rotary positions.
    dropout: rate of dropout on branch outputs.
    causal: whether a token sees only itself and earlier tokens, in addition to the mask.
    init_std: standard deviation of all initial weights.
    dtype: dtype of the matrix products; parameters are float32.
  """

  num_heads: int
  d_ff: int
  connection: ConnectionLike = HyperConnection
  num_kv_heads: int | None = None
  activation: str = "gelu"
  norm: str = "layernorm"
  norm_params: bool = False
  norm_eps: float = 1e-5
  norm_position: str = "pre"
  rotary_theta: float | None = 10000.0
  dropout: float = 0.0
  causal: bool = True
  init_std: float = 0.02
  dtype: Dtype = jnp.float32

  def setup(self) -> None:
    of_norm = {"norm": self.norm, "norm_params": self.norm_params, "norm_eps": self.norm_eps}
    weights = {"init_std": self.init_std, "dtype": self.dtype}
    self.block = Block(
      attention=functools.partial(
        Attention,
        num_heads=self.num_heads,
        num_kv_heads=self.num_kv_heads,
        causal=self.causal,
        rotary_theta=self.rotary_theta,
        **weights,
      ),
      feed_forward=functools.partial(
        FeedForward, d_ff=self.d_ff, activation=self.activation, **weights
      ),
      norm=functools.partial(
        Norm, kind=self.norm, params=self.norm_params, eps=self.norm_eps, dtype=self.dtype
      ),
      connection=connection_factory(self.connection, **of_norm, partitioned=True),
      norm_position=self.norm_position,
      dropout=self.dropout,
      dtype=self.dtype,
    )
    nn.share_scope(self, self.block)  # gives parameters the names that they have in TransformerLM

  def __call__(
    self,
    carry: Carry,
    layer: int | jax.Array,
    mask: jax.Array | None = None,
    *,
    positions: jax.Array | None = None,
    deterministic: bool = True,
  ) -> Carry:
    """Runs the layer.

    Args:
      carry: streams `[B, L, n, w]`, as `hc_jax.expand` makes them; for a connection that carries
        its read, the pair (streams, read), with read None at the first layer. In `nn.scan`, whose
        carry has one type, begin with `hc_jax.connections.carry.start(connection, streams)`.
      layer: number of the layer in the network, from 0; its sites are `2 * layer` and the next.
      mask: bool `[B | 1, 1, L, L]`, true where a query (third axis) may see a key; None is all.
      positions: positions of the tokens, int32 `[B | 1, L]`; 0, 1, ... by default.
      deterministic: whether dropout is off. With dropout, apply with `rngs={"dropout": key}`.

    Returns:
      The next streams `[B, L, n, w]`, or the pair (streams, read).

    Raises:
      ValueError: if the streams or the mask do not have these shapes; in the cases of `Block`.
    """
    streams, _ = split(carry)
    if streams.ndim != 4:
      raise ValueError(
        f"streams have the shape {streams.shape}, and the layer takes [B, L, n, w]; make them from "
        "[B, L, d] with hc_jax.expand"
      )
    batch, length = streams.shape[:2]
    if mask is not None and mask.shape not in ((b, 1, length, length) for b in (1, batch)):
      raise ValueError(
        f"mask has the shape {mask.shape}, and streams {streams.shape} take "
        f"{(batch, 1, length, length)} or {(1, 1, length, length)}"
      )
    if positions is None:
      positions = jnp.arange(length, dtype=jnp.int32)[None]
    return self.block(carry, layer, TokenContext(positions, mask, deterministic))
