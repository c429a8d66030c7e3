"""Gates made of all streams at once: common to mHC, Identity HC, mHC-lite, KromHC and oHC."""

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

# Off the identity's logit in "identity" and "onehot"; softmax(0, -8) is (0.99966, 0.00034).
FAR = -8.0


class GatedConnection(Connection):
  """Read and write are gates, and mix some map of logits; all of them are made of all streams.

      logits = scale * (rmsnorm(vec X) @ kernel) + bias       for read, write and mix, each its own
      read = sigmoid(logits)      write = 2 sigmoid(logits)      mix = mix_of(logits)

  (arXiv 2512.24880, Eq. 7 and 8.) The norm and the kernels `[n, w, k]` see the streams as one
  vector of n * w numbers, whose axes are never merged. A variant gives `num_mix_logits`, `mix_of`
  and `mix_bias`, or none of them: its mix is the identity.

  With one stream the read is one and has no parameters, and the mix is the identity: the write is a
  gate on the branch.

  Parameters, for a mix of K logits: `nw(2n + K) + 2n + K + 3` (2 where K is zero); nw more with
  `norm_params`.

  Attributes:
    bias_init: the initial biases, with k the index of the site.
      "identity": the read is the mean of the streams, the write is one, the mix is near the
      identity: near the Pre-Norm residual network, see `facts`.
      "onehot": read and write have +1 at stream k mod n and -1 elsewhere, the mix is near the
      identity. No residual network: with four streams reads sum to 1.54, writes are 1.46 and 0.54.
      "uniform": zeros. Reads are 1/2, writes one, and where the mix can average all streams, it
      does. No residual network: reads sum to n/2 (which a Pre-Norm branch does not notice), and
      such a mix wipes out all that distinguishes streams, at every site.
    gate_scale_init: initial value of the scales, the papers' alpha.
    kernel_init_std: standard deviation of the initial kernels; None is 0 for "onehot", as the
      authors of mHC-lite and KromHC have it, and 0.02 otherwise. With zero and biases that are
      alike for all streams, equal streams get equal gradients and stay equal for ever.
    norm_params: whether the norm has a scale `[n, w]`.
    norm_eps: added to the mean square.
  """

  bias_init: str = field("identity", choices=("identity", "onehot", "uniform"))
  gate_scale_init: float = 0.01
  kernel_init_std: float | None = field(None, least=0)
  norm_params: bool = False
  norm_eps: float = field(1e-6, least=0)

  def num_mix_logits(self) -> int:
    """K, the numbers of which a token's mix is made; 0 for the identity."""
    return 0

  def mix_of(self, logits: jax.Array) -> jax.Array:
    """`[..., K]` -> `[..., n, n]`."""
    raise NotImplementedError(f"{type(self).__name__} must define mix_of(logits)")

  def mix_of_zeros(self) -> str:
    """What the mix of zero logits does, in words: that of "uniform" at first."""
    return "averages all streams"

  def mix_bias(self) -> jax.Array:
    """`[K]`, the initial bias of a mix near the identity; "uniform" starts from zeros instead."""
    raise NotImplementedError(f"{type(self).__name__} must define mix_bias()")

  def read_of(self, logits: jax.Array) -> jax.Array:
    """`[..., slots, n]` -> the same."""
    return jax.nn.sigmoid(logits)

  def frozen_scales(self) -> tuple[str, ...]:
    """Maps whose scale is no parameter but stays `gate_scale_init`."""
    return ()

  def check(self) -> None:
    check_one_fraction(self)
    super().check()

  def num_logits(self) -> dict[str, int]:
    """How many logits each map has; a map that is not there, or has none, is fixed."""
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
    """Bound on how far "identity" is from the residual network at first; None for the others."""
    if self.bias_init != "identity":
      return None
    # The logits' standard deviation at first. What is left without it is rounding.
    noise = self.gate_scale_init * self.kernel_std * math.sqrt(self.num_streams * d_model)
    return 1e-5 + noise

  @property
  def kernel_std(self) -> float:
    """`kernel_init_std`, or what stands for None."""
    if self.kernel_init_std is not None:
      return self.kernel_init_std
    return 0.0 if self.bias_init == "onehot" else 0.02

  def declare(self, width: int, index: int | jax.Array) -> dict[str, Param]:
    n, counts = self.num_streams, self.num_logits()
    normal = nn.initializers.normal(self.kernel_std)
    # Kernels come first: they alone are random, and Flax counts parameters for its keys.
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
    """Returns the initializer of a map's bias at that site."""
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
    "near the residual network: reads are means, writes one, off by what the random kernels add "
    "(nothing with kernel_init_std=0, which however keeps equal streams equal for ever)"
  ),
  "onehot": "no residual network: reads favour stream k mod n and writes it too, by gates of +-1",
  "uniform": "no residual network: all gates are half open",
}
