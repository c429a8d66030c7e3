"""Static maps, and what each stream adds to them by itself: common to HC, Frac and GHC."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection
from hc_jax.connections.declare import Param, value
from hc_jax.connections.facts import Facts
from hc_jax.fields import field


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
  norm: str | None = field(None, choices=ops.NORMS)
  norm_params: bool | None = None
  norm_eps: float | None = field(None, least=0)
  train_read_mix: bool = True
  train_write: bool = True

  @property
  def write_columns(self) -> int:
    """Columns of `write` that are parameters: 1 is one weight a stream, for its own fraction."""
    return 1

  @nn.nowrap
  def declare_scales(self) -> dict[str, Param]:
    """Returns the parameters that the dynamic parts are multiplied by."""
    raise NotImplementedError(f"{type(self).__name__} must define declare_scales()")

  @nn.nowrap
  def scales_of(self, small: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the scales of read and mix `[slots + n, n]`, and of write `[n, columns]`."""
    raise NotImplementedError(f"{type(self).__name__} must define scales_of(small)")

  def facts(self, d_model: int) -> Facts:
    del d_model
    return Facts(source=self.source, residual_at_init=1e-5)

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    n, columns = self.num_streams, self.write_columns
    first_write = np.ones((n, 1), np.float32) if columns == 1 else self._own_fraction()
    read_mix, write = {"trains": self.train_read_mix}, {"trains": self.train_write}
    declared = {
      "static_read": Param((self.slots, n), self._first_read(index), "read", **read_mix),
      "static_mix": Param((n, n), value(np.eye(n, dtype=np.float32)), "mix", **read_mix),
      "static_write": Param((n, columns), value(first_write), "write", **write),
    }
    if not self.dynamic:
      return declared
    either = {"trains": self.train_read_mix or self.train_write}  # these serve all three maps
    if self.norm_params:
      norm_axes = {"axes": ("embed",), **either}
      declared["norm_scale"] = Param((width,), nn.initializers.ones, **norm_axes)
      if self._norm == "layernorm":
        declared["norm_bias"] = Param((width,), nn.initializers.zeros, **norm_axes)
    declared["dynamic_kernel"] = Param(
      (width, self.slots + n + columns),
      nn.initializers.zeros,
      (("read", self.slots), ("mix", n), ("write", columns)),
      axes=("embed", None),
      decays=True,
      **either,
    )
    return declared | self.declare_scales()

  @nn.nowrap
  def _first_read(self, index: int | jax.Array) -> Any:
    """Returns the initial value of read: one copy of each fraction, in turn by the index."""

    def init(key, shape, dtype):
      del key, shape
      n, m = self.num_streams, self.fractions
      groups = n // m if n % m == 0 else 1
      group = jax.nn.one_hot(jnp.asarray(index) % groups, groups, dtype=dtype)
      one = jnp.kron(group[None, :], jnp.eye(m, dtype=dtype))
      return jnp.tile(jnp.pad(one, ((0, 0), (0, n - one.shape[1]))), (self.num_views, 1))

    return init

  @nn.nowrap
  def _own_fraction(self) -> np.ndarray:
    """Returns `[n, m]`: one where stream i holds fraction k, i mod m = k."""
    return np.eye(self.fractions, dtype=np.float32)[np.arange(self.num_streams) % self.fractions]

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    del index
    small, kernel = dict(params), None
    scale, bias = small.pop("norm_scale", None), small.pop("norm_bias", None)
    if self.dynamic:
      kernel = small.pop("dynamic_kernel")
      kernel = kernel * self._temperature(kernel.shape[0])
    if self.write_columns < self.fractions:
      small["own_fraction"] = jnp.asarray(self._own_fraction())
    eps = 1e-5 if self.norm_eps is None else self.norm_eps
    return ops.Generator(kernel, scale, bias, small, self.finisher(), self._norm, eps)

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    read, mix, write = (small[f"static_{name}"] for name in ("read", "mix", "write"))
    if logits is not None:
      read, mix, write = (
        ops.lift(fixed, part.ndim) + part
        for fixed, part in zip((read, mix, write), self._dynamic(logits, small), strict=True)
      )
    if "own_fraction" in small:
      write = write * ops.lift(small["own_fraction"], write.ndim)
    if not self.train_read_mix:
      read, mix = jax.lax.stop_gradient((read, mix))
    if not self.train_write:
      write = jax.lax.stop_gradient(write)
    return Coefs(read=read, write=write, mix=mix)

  @nn.nowrap
  def _dynamic(self, logits: jax.Array, small: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Returns what each token adds to read `[slots, n]`, mix `[n, n]` and write `[n, columns]`.

    Row j of the logits `[..., n, slots + n + columns]` is made of stream j.
    """
    parts = jnp.tanh(logits) if self.tanh else logits
    end = self.slots + self.num_streams
    read_mix_scale, write_scale = self.scales_of(small)
    read_mix = ops.lift(read_mix_scale, parts.ndim) * parts[..., :end].swapaxes(-1, -2)
    write = ops.lift(write_scale, parts.ndim) * parts[..., end:]
    return read_mix[..., : self.slots, :], read_mix[..., self.slots :, :], write

  @property
  def _norm(self) -> str:
    return "layernorm" if self.norm is None else self.norm

  @nn.nowrap
  def _temperature(self, w: int) -> float:
    """Returns what the projection is multiplied by."""
    del w
    return 1.0
