"""Gated residuals: a read with a weight for every channel, which replaces the pre-norm."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs, Gates
from hc_jax.connections.base import Connection, check_one_fraction
from hc_jax.connections.declare import Param
from hc_jax.connections.facts import Facts
from hc_jax.fields import field


class GatedResidual(Connection):
  """Gated residual of Qwen3.8-Next (arXiv 2608.30320, Eq. 30-34).

      N[i] = rmsnorm(X[i]) * (1 + norm_gamma[i])                    each stream alone
      G = sigmoid(silu(vec N @ down_kernel / n) @ up_kernel)        [n, d], rank r
      read: mean over i of G[i] * N[i]                              instead of the pre-norm
      write = 2 sigmoid(vec N @ write_kernel / n)                   [n]
      mix = identity

  The read norms its streams, so that blocks of this package leave out the norm before the branch.
  The network ends in one more read (`exit()`, `reduce="gated"`), which replaces the final norm.

  The map `Coefs.read` is the mean over channels of the weights on X. The field `Coefs.gates` holds
  r numbers per token, from which the weights of all channels are computed when they are needed.

  The report could not be read: the equations follow the code published for it (Transformers,
  `qwen4_exp`). In that code `norm_gamma` starts at zero; it does not show the kernels' initial
  values. Here kernels start as normal noise: gates near one half, writes near one.

  Calls and `write` are those of `Connection`. Parameters: `nd + 2ndr + n^2 d`, with V views
  `nd + (1 + V)ndr + n^2 d`; at the end `nd + 2ndr`.

  Attributes:
    rank: r; None means an eighth of the width, at least one.
    kernel_init_std: standard deviation of the initial kernels.
    norm_eps: added to the mean square of each stream.

  Raises:
    ValueError: by `check`, if `fractions` is not 1 or a field refuses its value.
  """

  norms_input: ClassVar[bool] = True
  reduce_kind: ClassVar[str] = "gated"

  rank: int | None = field(None, least=1)
  kernel_init_std: float = field(0.02, least=0)
  norm_eps: float = field(1e-6, least=0)

  def check(self) -> None:
    check_one_fraction(self)
    super().check()

  def facts(self, d_model: int) -> Facts:
    return Facts(
      source="arXiv 2608.30320, Eq. 30-34, by public code (Transformers, qwen4_exp)",
      note="not a residual network: every read is a mean of streams that are normed separately, "
      "times gates near one half",
    )

  def exit(self) -> "GatedExit":
    given = ("num_streams", "implementation", "derivatives", "partitioned")
    given += ("rank", "kernel_init_std", "norm_eps")
    return GatedExit(**{name: getattr(self, name) for name in given}, parent=None)

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    del index
    n, views = self.num_streams, self.num_views
    r = self.rank or max(1, width // 8)
    normal = nn.initializers.normal(self.kernel_init_std)
    over, wide = ("stream", "embed"), {"decays": True}
    return {
      "down_kernel": Param((n, width, r), normal, "read", axes=(*over, None), **wide),
      "up_kernel": Param((r, views, n, width), normal, "read", axes=(None, None, *over), **wide),
      "write_kernel": Param((n, width, n), normal, "write", axes=(*over, None), **wide),
      "norm_gamma": Param((n, width), nn.initializers.zeros, axes=over),
    }

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    del index
    kernels = [params[name] for name in ("write_kernel", "down_kernel") if name in params]
    return ops.Generator(
      kernel=jnp.concatenate(kernels, axis=-1),
      scale=1 + params["norm_gamma"],
      bias=None,
      small=None,
      finish=self.finisher(),
      norm="rmsnorm",
      eps=self.norm_eps,
      norm_over="stream",
      gates=params["up_kernel"],
    )

  def finish(self, logits: jax.Array | None, small: None) -> Coefs:
    del small
    n = self.num_streams
    write, hidden = jnp.split(logits / n, [n], axis=-1)
    # `read` stays None: `ops.coefs` computes it, the mean over channels, from gates and streams.
    write, gates = 2 * jax.nn.sigmoid(write)[..., None], Gates(jax.nn.silu(hidden))
    return Coefs(read=None, write=write, mix=None, gates=gates)


class GatedExit(GatedResidual):
  """The read at the end of a `GatedResidual` network: the same read, without a write.

  `GatedResidual.exit` makes it; `Reduce(kind="gated")` uses it. Fields and errors are those of
  `GatedResidual`. Parameters: `nd + 2ndr`. Its maps have a write of zeros.
  """

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    declared = super().declare(width, index)
    del declared["write_kernel"]
    return declared

  def finish(self, logits: jax.Array | None, small: None) -> Coefs:
    del small
    n = self.num_streams
    nothing, gates = jnp.zeros((n, 1), jnp.float32), Gates(jax.nn.silu(logits / n))
    return Coefs(read=None, write=nothing, mix=None, gates=gates)
