"""Attention residuals: each branch reads a softmax over the outputs of all branches before."""

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

  The sources v are the streams: slot 0 holds the embedding, and slot b + 1 the sum of the outputs
  of the sites b B to b B + B - 1. With `block_sites` B = 1 each output has a slot of its own, the
  full form. A site sees the slots that are filled, which its index says, the sum of its own block
  so far included. It writes into one slot and mixes nothing. The streams end in one more such
  softmax over all slots (`reduce="depth"`), with parameters of its own.

  The query starts at zero, so that each site reads the uniform mean of the filled slots. The slots
  sum to the state of the residual network, so that the mean is that state over their number, which
  a branch's norm takes out except for its eps.

  Public code counts blocks in layers of two sites (Kimi K3: 12 layers, B = 24) or in sites. The
  paper could not be read whole: the equations follow public code and a specification of K3.

  Streams begin as `hc_jax.Expand(n, kind="first")` and end as `hc_jax.Reduce(kind="depth")`. Models
  of this package have both where `expand` and `reduce` are unset.

  Parameters: `2d`, and `2d` once more at the end.

  Attributes:
    num_streams: n = ceil(num_sites / B) + 1 slots; it follows the depth where it is unset.
    block_sites: B, the sites that share a slot.
    norm_eps: added to the mean square.
    num_sites: sites of the whole network; a model of this package fills it in.
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
    """Returns one for each block of sites, and one for the embedding."""
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
      note="each site reads the mean of the filled slots, the residual state over their number; "
      "the eps of norms makes a difference of it (logits 7 % apart at 12 layers, eps 1e-5)",
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
    """Returns the slots that site `index` sees, bool `[slots]`, and the one that it writes."""
    index = jnp.asarray(index, jnp.int32)
    slots = jnp.arange(self.num_streams // self.fractions, dtype=jnp.int32)
    return {"sources": slots <= self.last_source(index), "slot": index // self.block_sites + 1}

  @nn.nowrap
  def last_source(self, index: jax.Array) -> jax.Array:
    """Returns the last slot that site `index` sees, of the block that holds the site before."""
    return (index + self.block_sites - 1) // self.block_sites

  def silent(self, index: int) -> frozenset[str]:
    return frozenset(self.declare(1, 0)) if index == 0 else frozenset()  # one slot to choose from

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    weights = self.choose(logits, small["sources"])
    write = jax.nn.one_hot(small["slot"], logits.shape[-2], dtype=jnp.float32)[:, None]
    return Coefs(weights.swapaxes(-1, -2), write, None, slot=small["slot"])

  @nn.nowrap
  def choose(self, logits: jax.Array, sources: jax.Array) -> jax.Array:
    """Returns the softmax over those of the slots that are sources, `[..., slots, k]`."""
    chosen = ops.lift(sources[:, None], logits.ndim)
    return jax.nn.softmax(jnp.where(chosen, logits, -jnp.inf), axis=-2)


class DeltaAttentionResiduals(AttentionResiduals):
  """Delta attention residuals, full and block (arXiv 2605.18855): the state, and a choice of sums.

      u = h + gate * sum_j softmax(s)_j v_j      h = sum of all slots

  Slots, scores and writes are those of `AttentionResiduals`. A site reads the state h, to which it
  adds a softmax over the slots that are finished: each of them is a change of the state, or the
  embedding. The first site reads the embedding as it is. Other sites of the first block have the
  embedding alone to choose from, so that of their parameters only the gate learns. The gate is one
  number and starts at zero, which is the residual network. The streams end in their sum, h.

  The paper could not be read, and its equations follow the authors' code, with the gate that it
  calls learnable_alpha; without a gate it adds the softmax as it is. That code starts the query at
  random, and in the block form shows a finished block to the second site after it.

  Parameters: `2d + 1`, and none at the end.
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
    if 0 < index < self.block_sites:  # the embedding alone is finished
      return frozenset({"depth_query", "norm_scale"})
    return super().silent(index)

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    chosen = super().finish(logits, {**small, "sources": small["finished"]})
    state = ops.lift(small["sources"].astype(jnp.float32), logits.ndim)
    return chosen.replace(read=state + ops.lift(small["gate"], logits.ndim) * chosen.read)
