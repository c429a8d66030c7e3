"""Hyper-connections under the constraints of mHC, as in the PyTorch package hyper-connections."""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import check_one_fraction
from hc_jax.connections.declare import Param
from hc_jax.connections.facts import Facts
from hc_jax.connections.per_stream import PerStreamConnection
from hc_jax.fields import field


class PerStreamMHC(PerStreamConnection):
  """The mHC of the PyTorch package hyper-connections, its `ManifoldConstrainedHyperConnections`.

  The mHC of the paper (2512.24880) is `MHC`. Here each stream is normed and projected alone, as in
  `HyperConnection` with rmsnorm and without tanh, which gives free maps. Then
  `read = sigmoid(free)`, `write = 2 sigmoid(free)` and `mix = sinkhorn(free^T)^T`. Columns of the
  mix sum to one exactly and rows nearly. Read, mix and write each have a scale of their own.

  Because the free maps start as in `HyperConnection`, the network does not start as a residual
  network. The class exists so that weights trained with that package can be used here
  (`hc_jax.convert`).

  Calls and `write` are those of `Connection`. Parameters: `n(n+2)` static,
  and `d(n+2) + n(n+2) + 3` dynamic, to which a norm with parameters adds its own.

  Attributes:
    gate_scale_init: initial value of the three scales.
    sinkhorn_steps: number of Sinkhorn steps, as in `MHC`.
    sinkhorn_gradient: "exact" or "implicit", as in `MHC`.

  Raises:
    ValueError: by `check`, if `fractions` is not 1 or a field refuses its value.
  """

  source: ClassVar[str] = "hyper-connections 0.4.11 (PyTorch)"
  tanh: bool = False
  norm: str = "rmsnorm"
  gate_scale_init: float = 0.01
  sinkhorn_steps: int = field(20, least=1)
  sinkhorn_gradient: str = field("exact", choices=ops.SINKHORN_GRADIENTS)

  def check(self) -> None:
    check_one_fraction(self)
    super().check()

  def declare_scales(self) -> dict[str, Param]:
    init = nn.initializers.constant(self.gate_scale_init)
    trains = {"read": self.train_read_mix, "mix": self.train_read_mix, "write": self.train_write}
    return {f"{name}_scale": Param((1,), init, name, trains=on) for name, on in trains.items()}

  def scales_of(self, small: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    rows = [
      jnp.tile(small["read_scale"], self.slots),
      jnp.tile(small["mix_scale"], self.num_streams),
    ]
    return jnp.concatenate(rows)[:, None], small["write_scale"]

  def facts(self, d_model: int) -> Facts:
    del d_model
    return Facts(
      source=self.source,
      mix_columns_sum_to_one=1e-6,
      note=(
        "not a residual network: HC's initial values under gates; reads are 0.73 and 0.5, writes "
        "1.46, and with four streams the mix has 0.475 on its diagonal"
      ),
    )

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    free = super().finish(logits, small)
    mix = ops.sinkhorn(
      free.mix.swapaxes(-1, -2),
      steps=self.sinkhorn_steps,
      gradient=self.sinkhorn_gradient,
      derivatives=self.derivatives,
    )
    return Coefs(
      read=jax.nn.sigmoid(free.read),
      write=2 * jax.nn.sigmoid(free.write),
      mix=mix.swapaxes(-1, -2),
    )
