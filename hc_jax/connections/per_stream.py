"""Static maps plus a dynamic part that each stream computes alone: the base of HC, Frac and GHC."""

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
  """Base of variants whose maps are parameters, to which each stream may add a part per token.

  The static part starts as the residual connection. Slot k of the branch input reads fraction k
  from one copy: copy `index mod (n/m)`, or copy 0 where m does not divide n. The branch output goes
  to all copies, and nothing is mixed. The dynamic part adds `scale * squash(norm(X) @
  dynamic_kernel)` to the maps. A stream's row in this part is computed from that stream alone, with
  weights that all streams share. The kernel starts at zero.

  Attributes:
    dynamic: whether maps depend on the token.
    tanh: whether tanh squashes the dynamic part.
    norm: norm before the projection, "layernorm" or "rmsnorm"; None means the model's norm inside a
      model of this package, and "layernorm" elsewhere.
    norm_params: whether that norm has a scale (and layernorm a bias); None means the model's choice
      inside a model of this package, and no elsewhere.
    norm_eps: added to the variance; None means the model's value inside a model of this package,
      and 1e-5 elsewhere.
    train_read_mix: whether read and mix learn (the paper's width connection, Table 3). If not, they
      keep their initial values and get no gradient.
    train_write: whether write learns (the paper's depth connection). If not, it keeps its initial
      value and gets no gradient.
    source: paper and equations of the class, for its facts.
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
    """Number of columns of `write` that learn; 1: each stream takes its own fraction alone."""
    return 1

  @nn.nowrap
  def declare_scales(self) -> dict[str, Param]:
    """Returns the declarations of the parameters that multiply the dynamic parts."""
    raise NotImplementedError(f"{type(self).__name__} must define declare_scales()")

  @nn.nowrap
  def scales_of(self, small: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns the scales of read and mix, `[slots + n, n]`, and of write, `[n, columns]`.

    Each may also be a shape that broadcasts to these.
    """
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
    # Parameters that serve all three maps are frozen only if all three maps are.
    either = {"trains": self.train_read_mix or self.train_write}
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
    """Returns an initializer of the read, which selects one copy of each fraction by the index."""

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
    """Returns the matrix `[n, m]` with 1 where stream i holds fraction k, `i mod m = k`, else 0."""
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
    """Returns the dynamic parts of read `[slots, n]`, mix `[n, n]` and write `[n, columns]`.

    Args:
      logits: `[..., n, slots + n + columns]`, row j from stream j alone.
      small: the generator's small parameters, with the scales.
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
    """Returns the factor of the projection, before the tanh."""
    del w
    return 1.0
