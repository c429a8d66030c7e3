"""Maps as one projection of the streams, followed by arithmetic on its few results."""

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
  """The weights of one site, and the function that makes its maps from them and from the streams.

  Only the projection uses the axis of the width. Everything after it works on the k results and on
  `small`. A kernel, another framework or a parameter count therefore needs only this value, and
  nothing else about the variant.

  Attributes:
    kernel: kernel of the projection, float32, or None where the maps are static. `[w, k]` projects
      each stream alone, `[n, w, k]` all streams as one vector, `[g, w, k]` groups of g streams.
    scale: scale of the norm before the projection, in the kernel's shape without k, or None.
    bias: bias of that norm, or None.
    small: tree of arrays without an axis of the width: static maps, scales, biases, and numbers
      that depend on the index.
    finish: `finish(logits, small) -> Coefs`, per token. Logits are `[..., n, k]`, `[..., k]`,
      `[..., n // g, k]` or None. The function is hashable, equal for equal variants, and captures
      no arrays.
    norm: norm before the projection, "layernorm" or "rmsnorm".
    eps: added to the variance in that norm (to the mean square for rmsnorm).
    norm_over: "all", "stream" for a norm of each stream before a kernel `[n, w, k]`, or "group" for
      a kernel `[g, w, k]`.
    gates: kernel of the gates, float32 `[r, v, n, w]`, for a read with a weight for every channel;
      see `hc_jax.coefs.Gates`. The read then norms each stream as the projection does, with the
      same scale. None where the read has one weight per stream.
    slot: number of the only stream to project, int32 `[]`, by a kernel `[1, w, k]`. None projects
      all.
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
    derivatives: "custom" uses derivatives written by hand, "autodiff" JAX's own.

  Returns:
    Float32 maps: `read` `[..., v, n]`, `write` `[..., n, m]`, `mix` `[..., n, n]` or None. Static
    maps have no axes of tokens. With gates, `read` is the mean of the weights over channels.

  Raises:
    ValueError: if an option or the norm is unknown, or if the generator has gates but does not norm
      each stream by RMSNorm without a bias.
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
      "a generator with gates reads streams that are normed separately; give it norm='rmsnorm', "
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

  The result is bitwise that of `write`, then `coefs`, then `read`. It is differentiable in every
  argument. A kernel that keeps the streams on the chip between the three would go here.

  Args:
    streams: streams that the first site read, `[..., n, w]`.
    branch_output: output of the first site's branch, `[..., m * w]`.
    written: maps of the first site. If they have a `next_read`, the second site reads with it.
    generator: weights of the second site.
    dtype: dtype of the branch input; the streams' own by default.
    implementation: backend, as in `coefs`.
    derivatives: "custom" or "autodiff", as in `coefs`.

  Returns:
    The streams between the sites `[..., n, w]`, the second branch input `[..., v * w]`, and the
    second site's maps.

  Raises:
    ValueError: in the cases of `write`, `coefs` and `read`.
  """
  options = {"implementation": implementation, "derivatives": derivatives}
  streams = write(streams, branch_output, written, **options)
  made = coefs(streams, generator, **options)
  if written.next_read is not None:
    made = made.replace(read=written.next_read, next_read=made.read)
  return streams, read(streams, made, dtype, **options), made
