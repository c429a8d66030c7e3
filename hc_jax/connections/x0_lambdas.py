"""x0-lambdas: every block begins with a learned sum of the state and the embedding."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection, check_one_fraction, first_read
from hc_jax.connections.declare import Param
from hc_jax.connections.facts import Facts
from hc_jax.fields import field


class X0Lambdas(Connection):
  """x0-lambdas, the residual network of speed runs, with backout as an option.

      x = lambda x + mu x0     at the first site of every block, before it reads
      x = x + F(x)             at every site

  Stream 0 is the state x, stream 1 the embedding x0. The network ends in stream 0
  (`reduce="first"`). With `backout`, stream 2 keeps the state that enters one block in the middle.
  The network then ends in `x - scale x_mid` (`reduce="backout"`). The scale is a parameter of
  `hc_jax.Reduce`, which starts at 0.2.

  The initial lambda falls linearly over the blocks from 1.15 to 1.05, and mu from 0.20 to 0.05.
  The equations follow no paper, but nanochat's `gpt.py` (92d63d4), by public copies. There the
  embedding is normed before it becomes x0; the models of this package do not norm it.

  Calls, `write` and the other attributes are those of `Connection`. Parameters: 2 at the first site
  of a block, none at its other sites. Every site writes into stream 0 alone; only first sites mix.

  Attributes:
    num_streams: 2, or 3 with backout; None chooses.
    backout: whether the end subtracts a part of a state from the middle.
    backout_block: number of the block whose incoming state is subtracted, from 1 to N - 1, where
      N = num_sites / sites_per_block. None means `N // 2 + 1`, as in nanochat, which needs N >= 3.
    num_sites: number of sites of the whole network, which first sites need; a model of this package
      fills it in. Initial values depend on it.
    sites_per_block: number of sites of a block; a model of this package fills it in. None means 1.
    site_in_block: number of the site in its block, from 0; a model of this package fills it in.
      None means 0: give it if a block has more than one site.

  Raises:
    ValueError: by `check`, if `fractions` is not 1, `num_streams` does not fit `backout`,
      `num_sites` is not a multiple of `sites_per_block`, or `backout_block` is given without
      `backout` or out of its range, which is known once `num_sites` is. By a call of a first site,
      if `num_sites` is None.
  """

  num_streams: int | None = None
  backout: bool = False
  backout_block: int | None = field(None, least=0)
  num_sites: int | None = None
  sites_per_block: int | None = None
  site_in_block: int | None = None

  def __post_init__(self) -> None:
    if self.num_streams is None:
      self.num_streams = 3 if self.backout else 2
    super().__post_init__()

  @property
  def reduce_kind(self) -> str:
    """Kind of `Reduce` at the end of a network."""
    return "backout" if self.backout else "first"

  def check(self) -> None:
    check_one_fraction(self)
    super().check()
    if self.num_streams != 2 + self.backout:
      raise ValueError(
        f"num_streams={self.num_streams}: X0Lambdas with backout={self.backout} has "
        f"{2 + self.backout} streams; leave num_streams unset"
      )
    if self.num_sites is not None and self.num_sites % self._per_block:
      raise ValueError(
        f"num_sites={self.num_sites} is not a multiple of sites_per_block={self._per_block}; give "
        "the sites of whole blocks"
      )
    if self.backout_block is not None and not self.backout:
      raise ValueError(
        f"backout_block={self.backout_block} needs backout=True; set it, or leave backout_block "
        "unset"
      )
    if self.backout and self.num_sites is not None:
      self._check_middle()

  def facts(self, d_model: int) -> Facts:
    del d_model
    note = (
      "does not start as the residual network: over depth lambda is 1.15 to 1.05, mu 0.2 to 0.05"
    )
    if self.backout:
      note += "; 0.2 of a state in the middle is subtracted at the end"
    return Facts(source="karpathy/nanochat gpt.py at 92d63d4", note=note)

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    del width
    if self.site_in_block:
      return {}

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array:
      del key
      depth = self._block(index).astype(dtype) / jnp.asarray(max(self._blocks() - 1, 1), dtype)
      return jnp.stack([1.15 - 0.10 * depth, 0.20 - 0.15 * depth]).reshape(shape)

    return {"lambdas": Param((2,), init)}

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    small = dict(params)
    if self.backout and not self.site_in_block:
      small["is_middle"] = self._block(index) == self._middle()
    return ops.Generator(None, None, None, small, self.finisher())

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    del logits
    n = self.num_streams
    stay = jnp.eye(n, dtype=jnp.float32)
    write = stay[:, :1]
    if self.site_in_block:
      read = first_read(n, self.num_views)
      return Coefs(read=read, write=write, mix=None, slot=jnp.zeros((), jnp.int32))
    begin = jnp.pad(small["lambdas"], (0, n - 2))[None]
    rows = [begin, stay[1:2]]
    if self.backout:
      rows.append(jnp.where(small["is_middle"], stay[:1], stay[2:]))
    return Coefs(read=jnp.tile(begin, (self.num_views, 1)), write=write, mix=jnp.concatenate(rows))

  @property
  def _per_block(self) -> int:
    return self.sites_per_block or 1

  @nn.nowrap
  def _block(self, index: int | jax.Array) -> jax.Array:
    return jnp.asarray(index, jnp.int32) // self._per_block

  @nn.nowrap
  def _blocks(self) -> int:
    if self.num_sites is None:
      raise ValueError(
        "X0Lambdas has num_sites=None but needs it; the models of this package fill it in, "
        "elsewhere give it: X0Lambdas(num_sites=8) for a network of eight sites"
      )
    return self.num_sites // self._per_block

  @nn.nowrap
  def _middle(self) -> int:
    return self._blocks() // 2 + 1 if self.backout_block is None else self.backout_block

  @nn.nowrap
  def _check_middle(self) -> None:
    blocks = self._blocks()
    if self.backout_block is None and blocks < 3:
      raise ValueError(
        f"backout=True needs 3 blocks, not {blocks}: in so short a network the state after block "
        f"{blocks // 2} is the end; add layers, or set backout_block"
      )
    if not 0 < self._middle() < blocks:
      raise ValueError(
        f"backout_block={self.backout_block} is not a block after the first one of {blocks}; "
        f"choose one from 1 to {blocks - 1}"
      )
