"""Hyper-connections, static and dynamic."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import axes, ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection


class HyperConnection(Connection):
  """Static (SHC) and dynamic (DHC) hyper-connections, arXiv 2409.19606.

  Static: `read`, `write` and `mix` are parameters. They start as Eq. 14: the sublayer of index k
  reads stream `k mod n`, writes to all, and mixes nothing, which makes the network a Pre-Norm
  residual network at initialisation. Dynamic adds to each of them, per token,
  `scale * tanh(norm(X) @ dynamic_kernel)` (Eq. 10-13), where row j of the result comes from stream
  j alone; the kernel starts at zero.

  Parameters: `n(n+2)` static; `|norm| + w(n+2) + n(n+2) + 2` dynamic.

  Attributes:
    num_streams: n >= 1, the expansion rate.
    dynamic: DHC if true, SHC if false.
    tanh: squash the dynamic part (the paper's default).
    norm: "layernorm" or "rmsnorm" before the projection; None is the model's norm inside a model of
      this package, and "layernorm" elsewhere.
    norm_params: whether that norm has a scale (and layernorm a bias); None is the model's choice
      inside a model, and no elsewhere.
    norm_eps: added to the variance; None is the model's inside a model, and 1e-5 elsewhere.
    dynamic_scale_init: initial value of both dynamic scales (of read and mix; of write).
    train_read_mix: whether read and mix learn (the paper's width connection, Table 3). If not they
      keep their initial value and get no gradient.
    train_write: likewise for write (the paper's depth connection).
  """

  dynamic: bool = True
  tanh: bool = True
  norm: str | None = None
  norm_params: bool | None = None
  norm_eps: float | None = None
  dynamic_scale_init: float = 0.01
  train_read_mix: bool = True
  train_write: bool = True

  def check(self) -> None:
    super().check()
    if self.fractions != 1:
      raise ValueError(f"HyperConnection has one fraction, not fractions={self.fractions}")
    if self.norm is not None:
      ops.check_norm(self.norm)
    ops.check_implementation(self.implementation)

  @nn.compact
  def coefs(self, streams: jax.Array, index: int | jax.Array) -> Coefs:
    n = self.num_streams

    def round_robin(key, shape):
      del key
      return jax.nn.one_hot(jnp.asarray(index) % n, n, dtype=jnp.float32).reshape(shape)

    def identity(key, shape):
      del key
      return jnp.eye(shape[0], dtype=jnp.float32)

    ones = nn.initializers.ones
    read = self.param("static_read", axes.partitioned(round_robin, None, None), (1, n))
    mix = self.param("static_mix", axes.partitioned(identity, None, None), (n, n))
    write = self.param("static_write", axes.partitioned(ones, None, None), (n, 1))
    if self.dynamic:
      read_part, mix_part, write_part = self._dynamic(streams)
      read, mix, write = (
        static.reshape((1,) * (part.ndim - 2) + static.shape) + part
        for static, part in ((read, read_part), (mix, mix_part), (write, write_part))
      )
    if not self.train_read_mix:
      read, mix = jax.lax.stop_gradient((read, mix))
    if not self.train_write:
      write = jax.lax.stop_gradient(write)
    return Coefs(read=read, write=write, mix=mix)

  def _dynamic(self, streams: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What each token adds: read `[..., 1, n]`, mix `[..., n, n]`, write `[..., n, 1]`."""
    n, w = streams.shape[-2:]
    norm = "layernorm" if self.norm is None else self.norm
    norm_scale = norm_bias = None
    if self.norm_params:
      ones, zeros = nn.initializers.ones, nn.initializers.zeros
      norm_scale = self.param("norm_scale", axes.partitioned(ones, "embed"), (w,))
      if norm == "layernorm":
        norm_bias = self.param("norm_bias", axes.partitioned(zeros, "embed"), (w,))
    zeros, constant = nn.initializers.zeros, nn.initializers.constant(self.dynamic_scale_init)
    kernel = self.param("dynamic_kernel", axes.partitioned(zeros, "embed", None), (w, n + 2))
    scale = self.param("dynamic_scale", axes.partitioned(constant, None), (2,))
    eps = 1e-5 if self.norm_eps is None else self.norm_eps
    parts = ops.project(
      streams,
      kernel,
      norm=norm,
      scale=norm_scale,
      bias=norm_bias,
      eps=eps,
      implementation=self.implementation,
    )  # [..., n, n + 2], row j from stream j; columns read | mix | write
    if self.tanh:
      parts = jnp.tanh(parts)
    read_mix = scale[0] * parts[..., : n + 1].swapaxes(-1, -2)
    return read_mix[..., :1, :], read_mix[..., 1:, :], scale[1] * parts[..., n + 1 :]
