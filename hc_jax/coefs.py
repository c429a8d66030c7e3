"""The maps of a site: three small matrices, and gates for a read by channel."""

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Gates:
  """Numbers for a read with a weight for every channel: `sum_i G[i] * rmsnorm(X[i]) / n`.

  The gates `G = sigmoid(hidden @ kernel)` are as wide as all streams. They are computed again
  wherever they are needed, so that a token keeps only `hidden`.

  Attributes:
    hidden: r numbers per token, float32 `[..., r]`, computed from the streams.
    kernel: parameter, float32 `[r, v, n, w]`. A connection's `finish` leaves kernel, scale and eps
      unset, and `hc_jax.ops.coefs` fills them in.
    scale: scale of the norm, float32 `[n, w]`, or None for one.
    eps: added to the mean square of a stream in the norm.
  """

  hidden: jax.Array
  kernel: jax.Array | None = None
  scale: jax.Array | None = None
  eps: float = flax.struct.field(pytree_node=False, default=1e-6)


@flax.struct.dataclass
class Coefs:
  """Maps of one site, per token: `X' = mix @ X + write @ F(read @ X)` (2409.19606 Eq. 2-5).

  All are float32. Their leading axes are those of the tokens; static maps have none.
  There are `n` streams, and the branch has `v` slots (1 for hyper-connections, the number of
  fractions for Frac-Connections). With several views, `read` has one row for each slot of each
  view; `write` has one column for each slot.

  Attributes:
    read: `[..., v, n]`; `read[k, j]` is the weight of stream j in slot k of the branch input.
      The paper's `A_m` transposed (Eq. 2).
    write: `[..., n, v]`; `write[i, k]` is the weight of slot k of the branch output in stream i.
      The paper's `B` transposed.
    mix: `[..., n, n]`; `mix[i, j]` carries stream j INTO stream i. The paper's `A_r` transposed,
      as it is applied (`A_r^T H`). None is the identity, and costs nothing.
    next_read: `[..., v, n]`, the read of the next site, where a variant computes it one site ahead;
      None elsewhere.
    slot: number of the only stream that the write changes, int32 `[]`. A variant sets it if all
      other rows of `write` are zero and `mix` is None, so that other streams are not touched. Where
      the width is cut into m fractions, it counts groups of m streams. None elsewhere.
    gates: numbers for a read with a weight for every channel; `read` is then the mean of the
      weights over the channels. None elsewhere.
  """

  read: jax.Array
  write: jax.Array
  mix: jax.Array | None
  next_read: jax.Array | None = None
  slot: jax.Array | None = None
  gates: Gates | None = None

  def as_matrix(self) -> jax.Array:
    """Returns the paper's matrix `[[0, B], [A_m, A_r]]` (Eq. 1), float32 `[..., 1 + n, 1 + n]`.

    Raises:
      ValueError: if v is not 1: the matrix has one row and one column for the branch.
    """
    v, n = self.read.shape[-2:]
    if v != 1:
      raise ValueError(
        f"as_matrix() writes one row and one column for the branch, but read is "
        f"{self.read.shape}: {v} slots; use read, write and mix instead"
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
