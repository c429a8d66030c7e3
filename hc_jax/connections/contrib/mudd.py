"""MUDD: each block reads weighted sums of all earlier outputs, with weights that tokens compute."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import first_read
from hc_jax.connections.contrib.dense import DenseFormer
from hc_jax.connections.declare import Param
from hc_jax.connections.facts import Facts
from hc_jax.fields import field


class MUDD(DenseFormer):
  """Multiway dynamic dense connections, MUDDFormer (arXiv 2502.12170, Eq. 4-8).

      hidden = gelu(rmsnorm(X[l]) @ hidden_kernel)                       of the newest state
      read[v, j] = hidden @ weights_kernel[:, v, j] + static_read[v, j]  of the filled slots, j <= l

  Slots, writes, the first block and the end are those of `DenseFormer`. The branch is a whole block
  here too. The four ways of the paper are views: `model.attention_views=True` reads queries, keys,
  values and the inner residual. With one view it is the paper's DDFormer. The end has one way and
  as many hidden numbers as a site has for all views. Static weights start as in `DenseFormer`, and
  `weights_kernel` at zero, which is the residual network. The hidden kernel starts as normal noise
  of variance 1/d.

  The option `normed` is the paper's PrePostDANorm (Eq. 10), for deep and narrow networks:

      input = read_scale * rmsnorm(sum_j read[v, j] rmsnorm(X[j])) + X[l]

  Its static weights start at zero and `read_scale` at 0.001, close to the residual network. Here
  norms have no gains, and the scale is one number per way. In the paper both are vectors of d,
  which a read of whole streams cannot have. `Coefs.read` has the weights of the streams before
  their norm.

  The block uses one norm for queries, keys and values, where the authors' code has one for each.
  Their code also rounds the hidden size up to 64, and lets the feed-forward grow with depth.

  Parameters for V views, L blocks and s = L + 1 slots: `Vds + (Vs)^2 + Vs` a site, and
  `Vds + Vs^2 + s` at the end. Without padding s is l + 1 at site l, and the first site has none.
  With padding a site computes the same result, and the added parameters have no effect. `normed`
  adds one parameter for each sum.

  Attributes:
    normed: whether states are normed before the sum, and the sum before the newest state is added.
    norm_eps: added to the mean square in all norms of the connection.
  """

  normed: bool = False
  norm_eps: float = field(1e-6, least=0)

  def facts(self, d_model: int) -> Facts:
    del d_model
    return Facts(source="arXiv 2502.12170, Eq. 4-8 and 10", residual_at_init=1e-5)

  def exit(self) -> "MUDDExit":
    given = ("num_streams", "num_views", "implementation", "derivatives", "partitioned")
    given += ("padded", "num_sites", "normed", "norm_eps")
    return MUDDExit(**{name: getattr(self, name) for name in given}, parent=None)

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    if not (static := super().declare(width, index)):
      return {}
    *_, count = static["static_read"].shape
    hidden = self.num_views * count
    normal, zeros = nn.initializers.normal(width**-0.5), nn.initializers.zeros
    if self.normed:
      start = nn.initializers.constant(1e-3)
      zero = dataclasses.replace(static["static_read"], init=zeros)
      static = {"static_read": zero, "read_scale": Param((self.ways,), start, "read")}
    return {
      "hidden_kernel": Param((width, hidden), normal, "read", axes=("embed", None), decays=True),
      "weights_kernel": Param((hidden, self.ways, count), zeros, "read", decays=True),
      **static,
    }

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    small = self.place(params, index)
    if not params:
      return ops.Generator(None, None, None, small, self.finisher())
    kernel, more = small.pop("hidden_kernel")[None], {"slot": small["index"]}
    if self.normed:
      newest = jnp.arange(self.num_streams, dtype=jnp.int32) == small["index"]
      plus = jnp.tile(newest.astype(jnp.float32), (self.ways, 1))
      more["read_norm"] = ops.ReadNorm(small.pop("read_scale"), plus, self.norm_eps)
    return ops.Generator(
      kernel, None, None, small, self.finisher(), "rmsnorm", self.norm_eps, **more
    )

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    index = small["index"]
    if logits is None:  # the first site, without padding
      return self.maps(first_read(self.num_streams, self.ways), index)
    size = logits.shape[-1]
    used = jnp.arange(size, dtype=jnp.int32) < self.num_views * (index + 1)
    hidden = jnp.where(ops.lift(used, logits.ndim), nn.gelu(logits), 0.0)
    kernel = small["weights_kernel"]
    weights = jnp.einsum("...k,kvj->...vj", hidden, kernel, precision=jax.lax.Precision.HIGHEST)
    made = self.maps(weights + ops.lift(small["static_read"], weights.ndim), index)
    # Site 0 reads only the newest state, which `ReadNorm` adds after the norm.
    return made.replace(read=jnp.where(index > 0, made.read, 0.0)) if self.normed else made


class MUDDExit(MUDD):
  """The weighted sum at the end of MUDD: one way, with the hidden numbers of all views."""

  @property
  def ways(self) -> int:
    """Number of weighted sums at the end."""
    return 1
