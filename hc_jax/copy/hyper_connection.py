"""Hyper-connections (DHC and SHC) in one file, to copy: needs JAX and Flax only.

Source: arXiv 2409.19606, Eq. 1-14 and Algorithm 2. From hc_jax 0.2.0 (Apache-2.0), where
`python scripts/copy_hyper_connection.py` generates it.
Parameters have the names, shapes, dtypes and initial values of `hc_jax.HyperConnection`, so each
loads the other's checkpoints. On CPU, outputs and gradients are bitwise those of its
`derivatives="autodiff"`, except for the gradient of a kernel that several sites share.

In a compact `__call__(self, x)`, around any branches, each with a norm of its own:

    streams = expand(x, num_streams=4)                       # [..., d] -> [..., 4, d]
    for index, branch in enumerate(branches):                # counts through the whole network
      connection = HyperConnection(num_streams=4)
      h, coefs = connection(streams, index)                  # read: [..., d]
      streams = connection.write(streams, branch(h), coefs)  # mix and write
    x = reduce(streams)                                      # [..., d], before the final norm
"""

# SPDX-License-Identifier: Apache-2.0
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


@flax.struct.dataclass
class Coefs:
  """Maps of one site, per token: `X' = mix @ X + write @ F(read @ X)` (2409.19606 Eq. 2-5).

  All are float32. Their leading axes are those of the tokens; static maps have none.
  Here v is 1.

  Attributes:
    read: `[..., v, n]`; `read[k, j]` is the weight of stream j in slot k of the branch input.
      The paper's `A_m` transposed (Eq. 2).
    write: `[..., n, v]`; `write[i, k]` is the weight of slot k of the branch output in stream i.
      The paper's `B` transposed.
    mix: `[..., n, n]`; `mix[i, j]` carries stream j INTO stream i. The paper's `A_r` transposed,
      as it is applied (`A_r^T H`). None is the identity, and costs nothing.
  """

  read: jax.Array
  write: jax.Array
  mix: jax.Array | None


def expand(x: jax.Array, num_streams: int) -> jax.Array:
  """Copies `[..., d]` into streams `[..., n, d]` (Algorithm 1, first line)."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      f"expand: x is {x.dtype}, and streams are floating point; embed tokens first, or cast "
      "numbers: x.astype(jnp.float32)"
    )
  return jnp.tile(x[..., None, :], (*(1,) * (x.ndim - 1), num_streams, 1))


def reduce(streams: jax.Array) -> jax.Array:
  """Sums the streams: float32 `[..., d]` for the final norm (Algorithm 1, last line)."""
  return jnp.sum(streams, axis=-2, dtype=jnp.float32)


def read(
  streams: jax.Array,
  coefs: Coefs,
  dtype: jax.typing.DTypeLike | None = None,
) -> jax.Array:
  """Reads the branch input `read @ X` (Eq. 3), `[..., d]`; sums are float32."""
  h = combine(coefs.read, streams).astype(dtype or streams.dtype)
  return h.reshape(*streams.shape[:-2], h.shape[-2] * h.shape[-1])


def write(streams: jax.Array, branch_output: jax.Array, coefs: Coefs) -> jax.Array:
  """Returns the next streams `mix @ X + write @ y` (Eq. 4 and 5), rounded once.

  Raises:
    ValueError: if the branch output is not `[..., d]`.
  """
  *lead, _, w = streams.shape
  v = coefs.write.shape[-1]
  if branch_output.shape != (*lead, v * w):
    raise ValueError(
      f"write: the branch output is {branch_output.shape}, but streams {streams.shape} take "
      f"{(*lead, v * w)}; a branch must return the shape of its input"
    )
  y = branch_output.reshape(*lead, v, w)
  out = combine(coefs.write, y)
  out += streams.astype(jnp.float32) if coefs.mix is None else combine(coefs.mix, streams)
  return out.astype(streams.dtype)


# One unit for autodiff, as in the library: its terms are summed before they meet others.
@jax.jit
def combine(weights: jax.Array, x: jax.Array) -> jax.Array:
  """Computes `sum_j weights[..., i, j] * x[..., j, w]`, float32 `[..., i, w]`.

  A sum over the few j compiles to one pass over x, an einsum to a batched matrix product.
  """
  if weights.shape[-1] != x.shape[-2]:
    raise ValueError(f"maps={weights.shape} do not fit {x.shape}; use one call's maps")
  x = x.astype(jnp.float32)
  weights = lift(weights, x.ndim)
  terms = [weights[..., :, j, None] * x[..., None, j, :] for j in range(x.shape[-2])]
  return sum(terms[1:], start=terms[0])


def lift(weights: jax.Array, ndim: int) -> jax.Array:
  """Returns coefficients with leading axes of size one, so that they have `ndim` axes."""
  return weights.reshape((1,) * (ndim - weights.ndim) + weights.shape)


def project(streams: jax.Array, kernel: jax.Array, eps: float) -> jax.Array:
  """Returns `norm(X) @ kernel` of each stream alone (Eq. 10-13), float32 `[..., n, k]`.

  It is `(X @ W) * rstd`, where W is the kernel with centred columns: no normed streams.
  """
  kernel = kernel.astype(jnp.float32)  # with x64 enabled it may be float64
  # (x - mean) @ W = x @ (W - mean of W's columns): centring W once spares a pass over x.
  weights = kernel - jnp.mean(kernel, axis=0, keepdims=True)
  x = streams.astype(jnp.float32)
  mean = jnp.mean(x, axis=-1)
  square = jnp.mean(jnp.square(x - mean[..., None]), axis=-1)
  rstd = jax.lax.rsqrt(square + eps)
  return jnp.einsum("...w,wk->...k", x, weights, precision=HIGHEST) * rstd[..., None]


class HyperConnection(nn.Module):
  """Static (SHC) and dynamic (DHC) hyper-connections, arXiv 2409.19606, Eq. 1-14.

  Static: `read`, `write` and `mix` are parameters. They start as in Eq. 14: site k reads stream
  `k mod n`, writes to all streams, and mixes nothing. The network therefore starts as the Pre-Norm
  residual network. Dynamic: each token adds `scale * tanh(norm(X) @ dynamic_kernel)` to them
  (Eq. 10-13). Row j of that sum is computed from stream j alone; the kernel starts at zero.

  Parameters: `n(n+2)` static; `d(n+2) + n(n+2) + 2` dynamic.

  Attributes:
    num_streams: n >= 1, the expansion rate.
    dynamic: whether maps depend on the token: DHC if true, SHC if false.
    norm_eps: added to the norm's variance.
    dynamic_scale_init: initial value of both dynamic scales (of read and mix; of write).
  """

  num_streams: int = 4
  dynamic: bool = True
  norm_eps: float = 1e-5
  dynamic_scale_init: float = 0.01

  @nn.compact
  def __call__(
    self,
    streams: jax.Array,
    index: int | jax.Array,
    *,
    dtype: jax.typing.DTypeLike | None = None,
  ) -> tuple[jax.Array, Coefs]:
    """Computes the branch input and the maps of this site.

    Args:
      streams: `[..., n, d]`.
      index: number of the site in the network, a whole number from 0: attention of block l is 2l,
        its feed-forward 2l + 1. Initial values depend on it. May be traced.
      dtype: dtype of the branch input; the streams' own by default.

    Returns:
      The branch input `[..., d]` and the float32 maps, which `write` needs.

    Raises:
      ValueError: if the streams are not `num_streams` in number.
    """
    n = self.num_streams
    if streams.ndim < 2 or streams.shape[-2] != n:
      raise ValueError(f"streams={streams.shape} must be [..., {n}, d]; make them with expand")
    first_read = jax.nn.one_hot(jnp.asarray(index) % n, n, dtype=jnp.float32)[None, :]
    maps = {
      "read": self.param("static_read", lambda key: first_read),
      "mix": self.param("static_mix", lambda key: jnp.eye(n, dtype=jnp.float32)),
      "write": self.param("static_write", nn.initializers.ones, (n, 1), jnp.float32),
    }
    if self.dynamic:
      zeros, constant = nn.initializers.zeros, nn.initializers.constant(self.dynamic_scale_init)
      kernel = self.param("dynamic_kernel", zeros, (streams.shape[-1], n + 2), jnp.float32)
      scale = self.param("dynamic_scale", constant, (2,), jnp.float32)
      parts = jnp.tanh(project(streams, kernel, self.norm_eps))
      end = n + 1
      read_mix = lift(scale[0], parts.ndim) * parts[..., :end].swapaxes(-1, -2)
      write = lift(scale[1], parts.ndim) * parts[..., end:]
      parts = {"read": read_mix[..., :1, :], "mix": read_mix[..., 1:, :], "write": write}
      for name, part in parts.items():
        maps[name] = lift(maps[name], part.ndim) + part
    coefs = Coefs(**maps)
    self.sow("intermediates", "coefs", coefs)
    return read(streams, coefs, dtype), coefs

  def write(self, streams: jax.Array, branch_output: jax.Array, coefs: Coefs) -> jax.Array:
    """Writes the branch output and mixes; see the function `write`."""
    return write(streams, branch_output, coefs)
