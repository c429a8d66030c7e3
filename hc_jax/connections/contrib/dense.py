"""DenseFormer: each block reads a weighted sum of the outputs of all blocks before it."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection, check_one_fraction, first_read
from hc_jax.connections.declare import Param, value
from hc_jax.connections.facts import Facts
from hc_jax.connections.place import is_count
from hc_jax.fields import field


class DenseFormer(Connection):
  """DenseFormer, depth-weighted averages (arXiv 2402.02622, Section 3.1).

      X[l + 1] = B_l(sum_{j <= l} read[j] X[j])      X[0] the embedding, B_l block l, from 0

  The branch is a whole block with its own residuals (`model.block="whole"`), and its output is the
  next state. Slot 0 holds the embedding and slot l + 1 the output of block l. A site reads the
  filled slots and writes into one. The first block reads the embedding unchanged, without weights.
  The network ends in one more weighted sum, over all slots (`reduce="exit"`).

  The paper assigns these weights to the block before. They start as one for the last state and
  zero for the others, which is the residual network. The paper's dilation and period are both 1
  here. With several views each view has weights of its own.

  Parameters for V views and L blocks: `V(L + 1)` a site and `L + 1` at the end; without padding
  `V(l + 1)` at site l, none at the first, with one view `L(L + 3) / 2` in all.

  Attributes:
    num_streams: n = num_sites + 1 slots; computed from the depth where it is unset.
    padded: whether each site has weights for all slots; the weights of empty slots are not used.
      Scanned layers need padding. Without it, sites have parameters of different shapes.
    num_sites: L, the number of sites of the whole network; a model of this package fills it in.
  """

  expand_kind: ClassVar[str] = "first"
  reduce_kind: ClassVar[str] = "exit"
  keeps_history: ClassVar[bool] = True
  branch_is_block: ClassVar[bool] = True
  needs: ClassVar[tuple[str, ...]] = ("num_sites",)

  num_streams: int | None = None
  padded: bool = True
  num_sites: int | None = field(None, least=1)

  def __post_init__(self) -> None:
    if self.num_streams is None and is_count(self.num_sites):
      self.num_streams = self.num_sites + 1
    super().__post_init__()

  @property
  def ways(self) -> int:
    """Number of weighted sums that a site makes."""
    return self.num_views

  @property
  def sites_differ(self) -> bool:
    """Whether parameters have different shapes at different sites: yes without padding."""
    return not self.padded

  def check(self) -> None:
    check_one_fraction(self)
    super().check()
    if self.num_sites is not None and self.num_streams != self.num_sites + 1:
      raise ValueError(
        f"num_streams={self.num_streams} does not fit {type(self).__name__} at num_sites="
        f"{self.num_sites}: it needs a slot for each block and one for the embedding; leave "
        f"num_streams unset, or set it to {self.num_sites + 1}"
      )

  def facts(self, d_model: int) -> Facts:
    del d_model
    return Facts(source="arXiv 2402.02622, Section 3.1", residual_at_init=1e-5)

  def exit(self) -> "DenseFormer":
    return self.clone(num_views=1, parent=None, name=None)

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    del width
    if not (count := self._slots_at(index)):
      return {}
    last = jnp.arange(count, dtype=jnp.int32) == index
    shape = (self.ways, count)
    return {"static_read": Param(shape, value(last[None]), "read")}

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    return ops.Generator(None, None, None, self.place(params, index), self.finisher())

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    del logits
    read = small.get("static_read", first_read(self.num_streams, self.num_views))
    return self.maps(read, small["index"])

  def silent(self, index: int) -> frozenset[str]:
    # Site 0 reads the embedding unchanged, so that none of its parameters has an effect.
    return frozenset(self.declare(1, 1)) if index == 0 else frozenset()

  @nn.nowrap
  def place(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> dict:
    """Returns the small parameters of a site, with its number under "index"."""
    return {**params, "index": jnp.asarray(index, jnp.int32)}

  @nn.nowrap
  def maps(self, weights: jax.Array, index: jax.Array) -> Coefs:
    """Returns the maps of a site from its read weights.

    Args:
      weights: `[..., v, n]`, or `[..., v, k]` for the k filled slots alone.
      index: number of the site.
    """
    n = self.num_streams
    empty = n - weights.shape[-1]
    weights = jnp.pad(weights, ((0, 0),) * (weights.ndim - 1) + ((0, empty),))
    slots = jnp.arange(n, dtype=jnp.int32)
    filled = ops.lift((slots <= index)[None], weights.ndim)
    first = ops.lift(first_read(n, weights.shape[-2]), weights.ndim)
    read = jnp.where(index > 0, jnp.where(filled, weights, 0.0), first)
    write = (slots == index + 1).astype(jnp.float32)[:, None]
    return Coefs(read, write, None, slot=index + 1)

  @nn.nowrap
  def _slots_at(self, index: int | jax.Array) -> int:
    """Returns the number of slots for which a site has parameters."""
    if self.padded:
      return self.num_streams or 1
    if isinstance(index, jax.core.Tracer):
      raise ValueError(
        f"{type(self).__name__}(padded=False) has parameters of another shape at each site, and "
        "here the number of the site is traced, as in a scan; set scan=False, or padded=True"
      )
    return int(index) + 1 if index else 0
