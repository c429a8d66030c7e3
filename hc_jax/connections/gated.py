"""Gates computed from all streams at once: the base of mHC, Identity HC, mHC-lite, KromHC, oHC."""

import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from hc_jax import ops
from hc_jax.coefs import Coefs
from hc_jax.connections.base import Connection, check_one_fraction
from hc_jax.connections.declare import Param, value
from hc_jax.connections.facts import Facts
from hc_jax.fields import field

# Initial logit of every other choice where the mix starts near the identity, whose logit is 0:
# softmax(0, -8) is (0.99966, 0.00034).
FAR = -8.0


class GatedConnection(Connection):
  """Base of variants whose maps are computed from all streams at once: gated read and write.

      logits = scale * (rmsnorm(vec X) @ kernel) + bias       for read, write and mix, each its own
      read = sigmoid(logits)      write = 2 sigmoid(logits)      mix = mix_of(logits)

  (arXiv 2512.24880, Eq. 7 and 8.) The norm and the kernels `[n, w, k]` treat the streams as one
  vector of n * w numbers, but no array merges these two axes. A variant defines `num_mix_logits`,
  `mix_of` and `mix_bias`. If it defines none, its mix is the identity.

  With one stream the read is one and has no parameters, and the mix is the identity: only the write
  remains, a gate on the branch.

  Parameters, for a mix of K logits: `nw(2n + K) + 2n + K + 3` (2 instead of 3 if K is zero); nw
  more with `norm_params`.

  Attributes:
    bias_init: initial biases: "identity", "onehot" or "uniform"; k is the index of the site.
      With "identity" the read is the mean of the streams, the write is one, and the mix is near the
      identity. This is near the Pre-Norm residual network, see `facts`.
      With "onehot" read and write have +1 at stream k mod n and -1 elsewhere, and the mix is near
      the identity. This is not a residual network: with four streams reads sum to 1.54, and writes
      are 1.46 and 0.54.
      With "uniform" all are zero. Reads are 1/2, writes one, and the mix averages all streams where
      it can. This is not a residual network: reads sum to n/2 (a factor that a Pre-Norm branch
      removes), and such a mix makes all streams equal at every site.
    gate_scale_init: initial value of the scales, alpha in the papers.
    kernel_init_std: standard deviation of the initial kernels; None means 0 for "onehot", as the
      authors of mHC-lite and KromHC have it, and 0.02 otherwise. With 0 and biases that are the
      same for all streams, equal streams get equal gradients and stay equal forever.
    norm_params: whether the norm has a scale `[n, w]`.
    norm_eps: added to the mean square.
  """

  bias_init: str = field("identity", choices=("identity", "onehot", "uniform"))
  gate_scale_init: float = 0.01
  kernel_init_std: float | None = field(None, least=0)
  norm_params: bool = False
  norm_eps: float = field(1e-6, least=0)

  def num_mix_logits(self) -> int:
    """Returns K, the number of logits per token of the mix; 0 if the mix is the identity."""
    return 0

  def mix_of(self, logits: jax.Array) -> jax.Array:
    """Returns the mix `[..., n, n]` of the logits `[..., K]`, float32."""
    raise NotImplementedError(f"{type(self).__name__} must define mix_of(logits)")

  def mix_of_zeros(self) -> str:
    """Returns in words what the mix of zero logits does, the initial mix of "uniform"."""
    return "averages all streams"

  def mix_bias(self) -> jax.Array:
    """Returns the bias `[K]` of a mix near the identity, for every `bias_init` but "uniform"."""
    raise NotImplementedError(f"{type(self).__name__} must define mix_bias()")

  def read_of(self, logits: jax.Array) -> jax.Array:
    """Returns the read of its logits, both `[..., slots, n]`."""
    return jax.nn.sigmoid(logits)

  def frozen_scales(self) -> tuple[str, ...]:
    """Returns the maps whose scale is not a parameter, but the constant `gate_scale_init`."""
    return ()

  def check(self) -> None:
    check_one_fraction(self)
    super().check()

  def num_logits(self) -> dict[str, int]:
    """Returns the number of logits of each map; fixed maps are left out."""
    n = self.num_streams
    counts = {"read": self.slots * n if n > 1 else 0, "write": n, "mix": self.num_mix_logits()}
    return {name: count for name, count in counts.items() if count}

  def facts(self, d_model: int) -> Facts:
    return Facts(
      residual_at_init=self.distance_at_init(d_model),
      note=NOTES[self.bias_init] + (self._uniform_mix() if self.bias_init == "uniform" else ""),
    )

  def _uniform_mix(self) -> str:
    if not self.num_mix_logits():
      return ", and nothing is mixed"
    return f", and a mix of zero logits {self.mix_of_zeros()}"

  def distance_at_init(self, d_model: int) -> float | None:
    """Returns a bound on the initial distance to the residual network; None unless "identity"."""
    if self.bias_init != "identity":
      return None
    # The initial standard deviation of the logits, and 1e-5 for rounding.
    noise = self.gate_scale_init * self.kernel_std * math.sqrt(self.num_streams * d_model)
    return 1e-5 + noise

  @property
  def kernel_std(self) -> float:
    """Standard deviation of the initial kernels: `kernel_init_std`, or its default if None."""
    if self.kernel_init_std is not None:
      return self.kernel_init_std
    return 0.0 if self.bias_init == "onehot" else 0.02

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    n, counts = self.num_streams, self.num_logits()
    normal = nn.initializers.normal(self.kernel_std)
    # Kernels come first, because Flax derives a parameter's random key from its number.
    declared = {
      f"{name}_kernel": Param(
        (n, width, count), normal, name, axes=("stream", "embed", None), decays=True
      )
      for name, count in counts.items()
    }
    if self.norm_params:
      ones = nn.initializers.ones
      declared["norm_scale"] = Param((n, width), ones, axes=("stream", "embed"))
    constant = nn.initializers.constant(self.gate_scale_init)
    for name, count in counts.items():
      if name not in self.frozen_scales():
        declared[f"{name}_scale"] = Param((1,), constant, name)
      declared[f"{name}_bias"] = Param((count,), self._first_bias(name, index), name)
    return declared

  def generate(self, params: Mapping[str, jax.Array], index: int | jax.Array) -> ops.Generator:
    del index
    small = dict(params)
    scale = small.pop("norm_scale", None)
    kernels = [small.pop(f"{name}_kernel") for name in self.num_logits()]
    kernel = jnp.concatenate(kernels, axis=-1)
    return ops.Generator(kernel, scale, None, small, self.finisher(), "rmsnorm", self.norm_eps)

  def finish(self, logits: jax.Array | None, small: Mapping[str, jax.Array]) -> Coefs:
    gates, end = {}, 0
    for name, count in self.num_logits().items():
      scale = small[f"{name}_scale"][0] if f"{name}_scale" in small else self.gate_scale_init
      bias, end = small[f"{name}_bias"], end + count
      gates[name] = scale * logits[..., end - count : end] + ops.lift(bias, logits.ndim)
    read = jnp.ones((self.slots, 1), jnp.float32)
    if "read" in gates:
      read = self.read_of(gates["read"].reshape(*logits.shape[:-1], self.slots, self.num_streams))
    return Coefs(
      read=read,
      write=2 * jax.nn.sigmoid(gates["write"])[..., None],
      mix=self.mix_of(gates["mix"]) if "mix" in gates else None,
    )

  @nn.nowrap
  def _first_bias(self, name: str, index: int | jax.Array) -> Callable:
    """Returns the initializer of a map's bias at a site."""
    n, count = self.num_streams, self.num_logits()[name]
    if self.bias_init == "uniform":
      return nn.initializers.zeros
    if name == "mix":
      return value(self.mix_bias())
    if self.bias_init == "onehot":
      onehot = jax.nn.one_hot(jnp.asarray(index) % n, n, dtype=jnp.float32)
      return value(jnp.tile(2 * onehot - 1, count // n))
    return nn.initializers.constant(-math.log(n - 1) if name == "read" else 0.0)


NOTES = {
  "identity": (
    "near the residual network: reads are means and writes are one, plus noise from the random "
    "kernels (none with kernel_init_std=0, but then equal streams stay equal forever)"
  ),
  "onehot": "not a residual network: gates of +-1 make site k read and write mostly stream k mod n",
  "uniform": "not a residual network: all gates are half open",
}
