"""Static maps, and what each stream adds to them by itself: common to HC, Frac and GHC."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import axes, ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection
from hc_jax.connections.facts import Facts


class PerStreamConnection(Connection):
  """Read, write and mix are parameters, and where dynamic, each stream adds to them per token.

  The static part starts as the residual connection: slot k of the branch reads its fraction from
  one copy, the copy of index `index mod (n/m)` (from the first where m does not divide n), writes
  to all copies of the fraction, and nothing is mixed. To each stream's row of the maps dynamic adds
  `scale * squash(norm(X) @ dynamic_kernel)`, made of that stream alone by weights that all streams
  share; the kernel starts at zero.

  Attributes:
    dynamic: whether tokens have a say.
    tanh: squash the dynamic part.
    norm: "layernorm" or "rmsnorm" before the projection; None is the model's norm inside a model of
      this package, and "layernorm" elsewhere.
    norm_params: whether that norm has a scale (and layernorm a bias); None is the model's choice
      inside a model, and no elsewhere.
    norm_eps: added to the variance; None is the model's inside a model, and 1e-5 elsewhere.
    train_read_mix: whether read and mix learn (the paper's width connection, Table 3). If not they
      keep their initial value and get no gradient.
    train_write: likewise for write (the paper's depth connection).
    source: of the class, for its facts.
  """

  source: ClassVar[str] = ""
  dynamic: bool = True
  tanh: bool = True
  norm: str | None = None
  norm_params: bool | None = None
  norm_eps: float | None = None
  train_read_mix: bool = True
  train_write: bool = True

  @property
  def write_columns(self) -> int:
    """Columns of `write` that are parameters: 1 is one weight a stream, for its own fraction."""
    return 1

  def scales(self) -> tuple[jax.Array, jax.Array]:
    """Of the dynamic parts: of read and mix `[slots + n, n]`, of write `[n, columns]`."""
    raise NotImplementedError(f"{type(self).__name__} must define scales()")

  def num_scales(self) -> int:
    """How many parameters `scales` has."""
    raise NotImplementedError(f"{type(self).__name__} must define num_scales()")

  def check(self) -> None:
    super().check()
    if self.norm is not None:
      ops.check_norm(self.norm)

  def num_params(self, d_model: int) -> int:
    """Parameters of one site: static, and where dynamic |norm|, projection and scales."""
    n, w = self.num_streams, d_model // self.fractions
    rows = self.slots + n + self.write_columns
    if not self.dynamic:
      return n * rows
    norm = 0 if not self.norm_params else w if self.norm == "rmsnorm" else 2 * w
    return norm + w * rows + n * rows + self.num_scales()

  def facts(self, d_model: int) -> Facts:
    return Facts(source=self.source, num_params=self.num_params(d_model), residual_at_init=1e-5)

  def frozen(self) -> frozenset[str]:
    held = () if self.train_read_mix else ("read", "mix")
    held += () if self.train_write else ("write",)
    names = {name for map_ in held for name in (f"static_{map_}", f"{map_}_scale")}
    if len(held) == 3:  # what serves several maps learns as long as one of them does
      names |= {"dynamic_kernel", "dynamic_scale", "norm_scale", "norm_bias"}
    return frozenset(names)

  def parts(self, params: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
    found = super().parts({k: v for k, v in params.items() if k != "dynamic_kernel"})
    if "dynamic_kernel" in params:
      kernel, read, write = params["dynamic_kernel"], self.slots, self.slots + self.num_streams
      found["read"]["dynamic_kernel"] = kernel[..., :read]
      found["mix"]["dynamic_kernel"] = kernel[..., read:write]
      found["write"]["dynamic_kernel"] = kernel[..., write:]
    return found

  @nn.compact
  def coefs(self, streams: jax.Array, index: int | jax.Array) -> Coefs:
    n, m, columns = self.num_streams, self.fractions, self.write_columns
    pattern = jnp.asarray(self._own_fraction())

    def first_read(key, shape):
      del key
      groups = n // m if n % m == 0 else 1
      group = jax.nn.one_hot(jnp.asarray(index) % groups, groups, dtype=jnp.float32)
      one = jnp.kron(group[None, :], jnp.eye(m))
      return jnp.tile(jnp.pad(one, ((0, 0), (0, n - one.shape[1]))), (self.num_views, 1))

    def identity(key, shape):
      del key
      return jnp.eye(shape[0], dtype=jnp.float32)

    def first_write(key, shape):
      del key
      return jnp.ones(shape, jnp.float32) if columns == 1 else pattern

    def static(name, init, *shape):
      return self.param(f"static_{name}", axes.partitioned(init, None, None), shape)

    read = static("read", first_read, self.slots, n)
    mix = static("mix", identity, n, n)
    write = static("write", first_write, n, columns)
    if self.dynamic:
      read_part, mix_part, write_part = self._dynamic(streams)
      read, mix, write = (
        ops.lift(fixed, part.ndim) + part
        for fixed, part in ((read, read_part), (mix, mix_part), (write, write_part))
      )
    if columns < m:
      write = write * ops.lift(pattern, write.ndim)
    if not self.train_read_mix:
      read, mix = jax.lax.stop_gradient((read, mix))
    if not self.train_write:
      write = jax.lax.stop_gradient(write)
    return Coefs(read=read, write=write, mix=mix)

  def _own_fraction(self) -> np.ndarray:
    """`[n, m]`: one where stream i holds fraction k, i mod m = k."""
    return np.eye(self.fractions, dtype=np.float32)[np.arange(self.num_streams) % self.fractions]

  def _dynamic(self, streams: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What each token adds to read `[slots, n]`, mix `[n, n]` and write `[n, columns]`."""
    n, w = streams.shape[-2:]
    norm = "layernorm" if self.norm is None else self.norm
    norm_scale = norm_bias = None
    if self.norm_params:
      ones, zeros = nn.initializers.ones, nn.initializers.zeros
      norm_scale = self.param("norm_scale", axes.partitioned(ones, "embed"), (w,))
      if norm == "layernorm":
        norm_bias = self.param("norm_bias", axes.partitioned(zeros, "embed"), (w,))
    width = self.slots + n + self.write_columns
    zeros = axes.partitioned(nn.initializers.zeros, "embed", None)
    kernel = self.param("dynamic_kernel", zeros, (w, width))
    read_mix_scale, write_scale = self.scales()
    parts = ops.project(
      streams,
      kernel * self._temperature(w),
      norm=norm,
      scale=norm_scale,
      bias=norm_bias,
      eps=1e-5 if self.norm_eps is None else self.norm_eps,
      implementation=self.implementation,
    )  # [..., n, width], row j from stream j; columns read | mix | write
    if self.tanh:
      parts = jnp.tanh(parts)
    read_mix = ops.lift(read_mix_scale, parts.ndim) * parts[..., : self.slots + n].swapaxes(-1, -2)
    write = ops.lift(write_scale, parts.ndim) * parts[..., self.slots + n :]
    return read_mix[..., : self.slots, :], read_mix[..., self.slots :, :], write

  def _temperature(self, w: int) -> float:
    """What the projection is multiplied by."""
    del w
    return 1.0
