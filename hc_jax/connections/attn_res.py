"""Attention residuals: each branch reads a softmax-weighted sum of all earlier branch outputs."""

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
from hc_jax.connections.place import is_count
from hc_jax.fields import field


class AttentionResiduals(Connection):
  """Attention residuals, full and block (Kimi, arXiv 2603.15031; Kimi K3).

      u = sum_j softmax(s)_j v_j      s_j = <scale * query, rmsnorm(v_j)>

  The sources v are the streams, called slots here. Slot 0 holds the embedding, and slot b + 1 the
  sum of the outputs of the sites b B to b B + B - 1. With `block_sites` B = 1 (the full form) each
  output has a slot of its own. A site sees the filled slots, including the sum of its own block so
  far. It writes into one slot and mixes nothing. The network ends in one more such softmax over all
  slots (`reduce="depth"`), with parameters of its own.

  The query starts at zero, so that each site reads the mean of the filled slots. Their sum is the
  state of the residual network. The mean is that state divided by the number of slots, and a
  branch's norm removes this factor, except for the effect of its eps.

  A layer has two sites, so a block of 12 layers (Kimi K3) is `block_sites=24`. The paper could not
  be read whole: the equations follow public code and a specification of K3.

  Streams begin as `hc_jax.Expand(n, kind="first")` and end as `hc_jax.Reduce(kind="depth")`. Models
  of this package use both where `expand` and `reduce` are unset.

  Calls, `write` and the other attributes are those of `Connection`. Parameters: `2d` a site,
  `(1 + V) d` with V views, and `2d` once at the end.

  Attributes:
    num_streams: n = ceil(num_sites / B) + 1 slots; computed from the depth where it is unset.
    block_sites: B, the number of sites that share a slot.
    norm_eps: added to the mean square.
    num_sites: number of sites of the whole network; a model of this package fills it in.

  Raises:
    ValueError: when called or initialised, if `num_sites` is not known, the index is not below it,
      `num_streams` does not fit it, or `fractions` is not 1.
  """

  expand_kind: ClassVar[str] = "first"
  reduce_kind: ClassVar[str] = "depth"
  keeps_history: ClassVar[bool] = True
  needs: ClassVar[tuple[str, ...]] = ("num_sites",)

  num_streams: int | None = None
  block_sites: int = field(1, least=1)
  norm_eps: float = field(1e-6, least=0)
  num_sites: int | None = field(None, least=1)

  def __post_init__(self) -> None:
    counts = (self.num_sites, self.block_sites, self.fractions)
    if self.num_streams is None and all(map(is_count, counts)):
      self.num_streams = self.fractions * self._slots_needed()
    super().__post_init__()

  def check(self) -> None:
    check_one_fraction(self)
    self._check_depth()

  @nn.nowrap
  def _slots_needed(self) -> int:
    """Returns the number of slots: one for each block of sites, and one for the embedding."""
    return -(-self.num_sites // self.block_sites) + 1

  @nn.nowrap
  def _check_depth(self) -> None:
    super().check()
    if self.num_sites is not None:
      self._check_slots()

  @nn.nowrap
  def _check_slots(self) -> None:
    needed = self._slots_needed()
    if self.num_streams != self.fractions * needed:
      cut = f" of {self.fractions} streams" if self.fractions > 1 else ""
      raise ValueError(
        f"num_streams={self.num_streams} does not fit {type(self).__name__} at num_sites="
        f"{self.num_sites}, block_sites={self.block_sites}: it needs a slot{cut} for each of "
        f"{needed - 1} blocks and one for the embedding; leave num_streams unset, or set it to "
        f"{self.fractions * needed}"
      )

  def facts(self, d_model: int) -> Facts:
    del d_model
    return Facts(
      source="arXiv 2603.15031",
      residual_at_init=0.1,
      note="each site reads the mean of the filled slots, the residual state divided by their "
      "number; eps in norms makes logits differ by that factor (7 % at 12 layers, eps 1e-5)",
    )

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    del index
    return {
      "depth_query": Param(
        (self.num_views, width), nn.initializers.zeros, "read", axes=(None, "embed")
      ),
      "norm_scale": Param((width,), nn.initializers.ones, "read", axes=("embed",)),
    }

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    kernel, scale = params["depth_query"].T, params["norm_scale"]
    small = self.places(index)
    return ops.Generator(kernel, scale, None, small, self.finisher(), "rmsnorm", self.norm_eps)

  @nn.nowrap
  def places(self, index: int | jax.Array) -> dict[str, jax.Array]:
    """Returns the slots that site `index` sees (`sources`, bool `[slots]`) and writes (`slot`)."""
    index = jnp.asarray(index, jnp.int32)
    slots = jnp.arange(self.num_streams // self.fractions, dtype=jnp.int32)
    return {"sources": slots <= self.last_source(index), "slot": index // self.block_sites + 1}

  @nn.nowrap
  def last_source(self, index: jax.Array) -> jax.Array:
    """Returns the last slot that site `index` sees: that of the site before; for site 0, slot 0."""
    return (index + self.block_sites - 1) // self.block_sites

  def silent(self, index: int) -> frozenset[str]:
    return frozenset(self.declare(1, 0)) if index == 0 else frozenset()  # one slot to choose from

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    weights = self.choose(logits, small["sources"])
    write = jax.nn.one_hot(small["slot"], logits.shape[-2], dtype=jnp.float32)[:, None]
    return Coefs(weights.swapaxes(-1, -2), write, None, slot=small["slot"])

  @nn.nowrap
  def choose(self, logits: jax.Array, sources: jax.Array) -> jax.Array:
    """Returns the softmax of `[..., slots, k]` over the slots that are sources."""
    chosen = ops.lift(sources[:, None], logits.ndim)
    return jax.nn.softmax(jnp.where(chosen, logits, -jnp.inf), axis=-2)


class DeltaAttentionResiduals(AttentionResiduals):
  """Delta attention residuals, full and block (arXiv 2605.18855): the state, and a choice of sums.

      u = h + gate * sum_j softmax(s)_j v_j      h = sum of all slots

  Slots, scores and writes are those of `AttentionResiduals`. A site reads the state h plus a
  weighted sum of the finished slots: the embedding and the changes that each finished block made.
  The first site reads the embedding unchanged. The other sites of the first block can choose only
  the embedding, so that only their gate learns. The gate is one number per site and starts at zero,
  which is the residual network. The network ends in h, the sum of all slots.

  The paper could not be read. The equations follow the authors' code with its option
  learnable_alpha, the gate; without that option the code adds the softmax without a factor. The
  code also starts the query at random, and in the block form shows a finished block only to the
  second site after the block.

  Calls, `write` and errors are those of `AttentionResiduals`. Parameters: `2d + 1`, none at the
  end.
  """

  reduce_kind: ClassVar[str] = "sum"

  def facts(self, d_model: int) -> Facts:
    del d_model
    return Facts(source="arXiv 2605.18855, by the authors' code", residual_at_init=1e-5)

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    gate = Param((1,), nn.initializers.zeros, "read")
    return {**super().declare(width, index), "depth_gate": gate}

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    made, index = super().generate(params, index), jnp.asarray(index, jnp.int32)
    slots = jnp.arange(self.num_streams, dtype=jnp.int32)
    small = {
      **made.small,
      "finished": slots <= index // self.block_sites,
      "gate": jnp.where(index > 0, params["depth_gate"], 0.0),
    }
    return made.replace(small=small)

  def silent(self, index: int) -> frozenset[str]:
    if 0 < index < self.block_sites:  # only the embedding's slot is finished
      return frozenset({"depth_query", "norm_scale"})
    return super().silent(index)

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    chosen = super().finish(logits, {**small, "sources": small["finished"]})
    state = ops.lift(small["sources"].astype(jnp.float32), logits.ndim)
    return chosen.replace(read=state + ops.lift(small["gate"], logits.ndim) * chosen.read)
