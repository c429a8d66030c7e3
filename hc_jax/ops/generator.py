"""Coefficients as one projection of the streams and arithmetic on the few numbers it gives."""

from collections.abc import Callable
from typing import Any

import flax
import jax

from hc_jax.coefs import Coefs
from hc_jax.ops import channels
from hc_jax.ops.normed_read import ReadNorm, normed_read
from hc_jax.ops.project import project
from hc_jax.ops.streams import read, write


@flax.struct.dataclass
class Generator:
  """The weights of one site, and how they make its maps; the streams are not in it.

  Only the projection touches the width. All else works on its k results and on `small`, so that a
  kernel, another framework or a count needs nothing of the variant but this value.

  Attributes:
    kernel: float32 `[w, k]`, which projects each stream by itself, `[n, w, k]`, which projects all
      of them as one vector, or `[g, w, k]`, which projects groups of g; None where the maps are
      static.
    scale: scale of the norm before it, of the kernel's shape without k, or None.
    bias: bias of that norm, or None.
    small: any tree of arrays without an axis of the width: static maps, scales, biases, and numbers
      made from the index.
    finish: `finish(logits, small) -> Coefs`, per token, where logits are `[..., n, k]`, `[..., k]`,
      `[..., n // g, k]` or None. It is hashable, equal for equal variants, and captures no arrays.
    norm: "layernorm" or "rmsnorm", before the projection.
    eps: what that norm adds to the variance (to the mean square for rmsnorm).
    norm_over: "all", "stream" for a norm of each stream before a kernel `[n, w, k]`, or "group" for
      a kernel `[g, w, k]`.
    gates: float32 `[r, v, n, w]`, makes a weight for every channel of the read of the r numbers
      `hidden` that `finish` gives; see `hc_jax.coefs.Gates`. The read norms each stream as the
      projection does, with the same scale. None where weights are those of streams.
    slot: int32 `[]`, the only stream that is projected, by a kernel `[1, w, k]`; None projects all.
    read_norm: norms before and after the sum of the read; None for a plain sum.
  """

  kernel: jax.Array | None
  scale: jax.Array | None
  bias: jax.Array | None
  small: Any
  finish: Callable[[jax.Array | None, Any], Coefs] = flax.struct.field(pytree_node=False)
  norm: str = flax.struct.field(pytree_node=False, default="layernorm")
  eps: float = flax.struct.field(pytree_node=False, default=1e-5)
  norm_over: str = flax.struct.field(pytree_node=False, default="all")
  gates: jax.Array | None = None
  slot: jax.Array | None = None
  read_norm: ReadNorm | None = None


def coefs(
  streams: jax.Array,
  generator: Generator,
  *,
  implementation: str = "auto",
  derivatives: str = "custom",
) -> Coefs:
  """Computes the maps of a site from its streams.

  Args:
    streams: `[..., n, w]`.
    generator: weights of the site.
    implementation: the backend, "auto" or "xla".
    derivatives: "custom" is written by hand, "autodiff" leaves them to JAX.

  Returns:
    `read` `[..., v, n]`, `write` `[..., n, m]` and `mix` `[..., n, n]` or None, float32; static
    ones have no axes of tokens. With gates, `read` is the mean over the channels.

  Raises:
    ValueError: if an option or the norm is unknown, or gates come without RMSNorm of each stream.
  """
  logits = None
  if generator.kernel is not None:
    chosen = streams
    if generator.slot is not None:
      axis = streams.ndim - 2
      chosen = jax.lax.dynamic_index_in_dim(streams, generator.slot, axis, keepdims=True)
    logits = project(
      chosen,
      generator.kernel,
      norm=generator.norm,
      scale=generator.scale,
      bias=generator.bias,
      eps=generator.eps,
      norm_over=generator.norm_over,
      implementation=implementation,
      derivatives=derivatives,
    )
  made = generator.finish(logits, generator.small)
  if generator.read_norm is not None:
    made = made.replace(read=normed_read(streams, made.read, generator.read_norm, derivatives))
  if generator.gates is None:
    return made
  if (generator.norm, generator.norm_over, generator.bias) != ("rmsnorm", "stream", None):
    raise ValueError(
      "a generator with gates reads streams that are normed one by one; give it norm='rmsnorm', "
      "norm_over='stream' and no bias"
    )
  return channels.with_gates(
    streams, made, generator.gates, generator.scale, generator.eps, derivatives
  )


def boundary(
  streams: jax.Array,
  branch_output: jax.Array,
  written: Coefs,
  generator: Generator,
  dtype: jax.typing.DTypeLike | None = None,
  *,
  implementation: str = "auto",
  derivatives: str = "custom",
) -> tuple[jax.Array, jax.Array, Coefs]:
  """Writes one site's branch output and reads the next site's branch input.

  It is bitwise `write`, then `coefs`, then `read`, and is differentiable in every argument. A
  kernel that keeps the streams on the chip between the three belongs here.

  Args:
    streams: `[..., n, w]`, those that the first site read.
    branch_output: `[..., m * w]`, output of the first site's branch.
    written: maps of the first site. With a `next_read` it is the second site's read.
    generator: weights of the second site.
    dtype: of the branch input; the streams' own by default.
    implementation: as in `coefs`.
    derivatives: as in `coefs`.

  Returns:
    The streams between the sites `[..., n, w]`, the second branch input `[..., v * w]`, and the
    second site's maps.

  Raises:
    ValueError: as `write`, `coefs` and `read` do.
  """
  options = {"implementation": implementation, "derivatives": derivatives}
  streams = write(streams, branch_output, written, **options)
  made = coefs(streams, generator, **options)
  if written.next_read is not None:
    made = made.replace(read=written.next_read, next_read=made.read)
  return streams, read(streams, made, dtype, **options), made
