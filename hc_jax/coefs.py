"""The three small matrices that a connection is made of, and gates for a read by channel."""

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Gates:
  """Numbers that make a read with a weight for every channel: `sum_i G[i] * rmsnorm(X[i]) / n`.

  The gates `G = sigmoid(hidden @ kernel)` are as wide as all streams, and are made anew wherever
  they are needed. A token keeps `hidden` alone.

  Attributes:
    hidden: float32 `[..., r]`, made of the streams.
    kernel: float32 `[r, v, n, w]`, a parameter. `finish` leaves it out, and scale and eps;
      `hc_jax.ops.coefs` puts them here.
    scale: float32 `[n, w]`, that of the norm, or None for one.
    eps: what the norm adds to the mean square of a stream.
  """

  hidden: jax.Array
  kernel: jax.Array | None = None
  scale: jax.Array | None = None
  eps: float = flax.struct.field(pytree_node=False, default=1e-6)


@flax.struct.dataclass
class Coefs:
  """Read, write and mix of one sublayer: `X' = mix @ X + write @ F(read @ X)`, per token.

  Always float32. The leading axes are those of the tokens, or absent where the coefficients are
  static. `n` is the number of streams and `v` the number of slots that the branch sees side by
  side (1 for hyper-connections, the number of fractions for Frac-Connections).

  Attributes:
    read: `[..., v, n]`; `read[k, j]` is how much of stream j slot k of the branch input holds.
      The paper's `A_m` transposed (Eq. 2).
    write: `[..., n, v]`; `write[i, k]` is how much of slot k of the branch output stream i takes.
      The paper's `B` transposed.
    mix: `[..., n, n]`; `mix[i, j]` carries stream j INTO stream i. The paper's `A_r` transposed,
      as it is applied (`A_r^T H`). None is the identity, and costs nothing.
    next_read: `[..., v, n]`, the read of the next site, where a variant makes it one site ahead;
      None elsewhere.
    slot: int32 `[]`, the only stream that the write changes, where a variant knows that all other
      rows of `write` are zero and `mix` is None; only that stream is then touched. Where the width
      is cut into m fractions it is the number of the m streams that hold them. None elsewhere.
    gates: for a read with a weight for every channel, which `read` is then the mean of over the
      channels. None elsewhere.
  """

  read: jax.Array
  write: jax.Array
  mix: jax.Array | None
  next_read: jax.Array | None = None
  slot: jax.Array | None = None
  gates: Gates | None = None

  def as_matrix(self) -> jax.Array:
    """The paper's matrix `[[0, B], [A_m, A_r]]` (Eq. 1), `[..., 1 + n, 1 + n]`; needs v = 1.

    Raises:
      ValueError: if the branch sees more than one slot.
    """
    v, n = self.read.shape[-2:]
    if v != 1:
      raise ValueError(
        f"as_matrix() writes one row and one column for the branch, but read is "
        f"{self.read.shape}: {v} slots. Use read, write and mix themselves."
      )
    mix = jnp.eye(n) if self.mix is None else self.mix
    lead = jnp.broadcast_shapes(self.read.shape[:-2], self.write.shape[:-2], mix.shape[:-2])
    read = jnp.broadcast_to(self.read, (*lead, 1, n))
    write = jnp.broadcast_to(self.write, (*lead, n, 1))
    mix = jnp.broadcast_to(mix, (*lead, n, n))
    corner = jnp.zeros((*lead, 1, 1), read.dtype)
    top = jnp.concatenate([corner, write.swapaxes(-1, -2)], axis=-1)
    rest = jnp.concatenate([read.swapaxes(-1, -2), mix.swapaxes(-1, -2)], axis=-1)
    return jnp.concatenate([top, rest], axis=-2)
