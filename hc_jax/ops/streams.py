"""Expand, read, write and reduce: the four operations on streams, as pure functions.

Streams are `[..., n, w]`: leading axes for tokens, n streams, width w. The last two axes are never
merged, nor folded into the batch, so that each keeps its name and sharding. All sums are float32
for every dtype of the streams, and are rounded once.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hc_jax import axes
from hc_jax.coefs import Coefs
from hc_jax.ops import channels, combine
from hc_jax.ops.options import check_options
from hc_jax.ops.plain import is_plain


def expand(x: jax.Array, num_streams: int, fractions: int = 1, axis: int = -1) -> jax.Array:
  """Copies an embedding into streams (2409.19606 Algorithm 1, first line).

  Args:
    x: `[..., d]`, of a floating-point dtype, with any leading axes or none.
    num_streams: n, the number of streams; at least `fractions`.
    fractions: m, the number of parts of the width; each stream holds one part. 1 copies the whole.
    axis: the axis of the features in x; 1 for images `[B, C, H, W]`. In streams it is the last.

  Returns:
    `[..., n, d // m]` in x's dtype; stream j holds fraction `j % m`. Within `plain_residual` there
    is one stream, x itself.

  Raises:
    ValueError: if m does not divide d, n < m, or x is not of floating point.
  """
  x = jnp.moveaxis(x, axis, -1)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      f"expand: x is {x.dtype}, and streams are floating point; embed tokens first, or cast "
      "numbers: x.astype(jnp.float32)"
    )
  d = x.shape[-1]
  _check_fractions(num_streams, fractions)
  if d % fractions:
    raise ValueError(
      f"expand: a width of {d} cannot be cut into {fractions} fractions; "
      f"choose fractions that divide {d}"
    )
  if is_plain():
    return _constrain(x[..., None, :])
  x = x.reshape(*x.shape[:-1], fractions, d // fractions)
  repeats = (1,) * (x.ndim - 2) + (-(-num_streams // fractions), 1)
  return _constrain(jnp.tile(x, repeats)[..., :num_streams, :])


def reduce(streams: jax.Array, fractions: int = 1, axis: int = -1) -> jax.Array:
  """Sums the copies of each fraction (2409.19606 Algorithm 1, last line) and joins the fractions.

  Where m does not divide n, some fractions have one copy more. The sum of each fraction is scaled
  to n / m copies. With the same m and axis, `reduce(expand(x))` therefore is `n / m * x`.

  Args:
    streams: `[..., n, w]`.
    fractions: m, as given to `expand`.
    axis: the axis of the features in the result, as given to `expand`.

  Returns:
    `[..., m * w]` with the features moved to `axis`, float32, so that the final norm gets the sum
    unrounded.

  Raises:
    ValueError: if n < m or m < 1, or within `plain_residual` there is more than one stream.
  """
  return jnp.moveaxis(_reduce(streams, fractions), -1, axis)


def _reduce(streams: jax.Array, fractions: int) -> jax.Array:
  *lead, n, w = streams.shape
  if is_plain():
    if n != 1:
      raise ValueError(
        f"reduce: plain_residual() is on, but there are {n} streams {streams.shape}; make them "
        "with hc_jax.expand within it too"
      )
    return streams[..., 0, :].astype(jnp.float32)
  _check_fractions(n, fractions)
  if n % fractions == 0:
    copies = streams.reshape(*lead, n // fractions, fractions, w)
    return jnp.sum(copies, axis=-3, dtype=jnp.float32).reshape(*lead, fractions * w)
  sums = [
    jnp.sum(streams[..., k::fractions, :], axis=-2, dtype=jnp.float32)
    * (n / fractions / len(range(k, n, fractions)))
    for k in range(fractions)
  ]
  return jnp.stack(sums, axis=-2).reshape(*lead, fractions * w)


def read(
  streams: jax.Array,
  coefs: Coefs,
  dtype: jax.typing.DTypeLike | None = None,
  *,
  implementation: str = "auto",
  derivatives: str = "custom",
) -> jax.Array:
  """Returns the branch input `read @ X` (2409.19606 Eq. 3), with its v slots joined.

  Where the maps have gates, every channel has weights of its own: see `hc_jax.coefs.Gates`.

  Args:
    streams: `[..., n, w]`, of a floating-point dtype.
    coefs: maps of the site, with `read` `[..., v, n]`, where v is views times fractions. Their
      leading axes are none, or broadcast to those of the streams.
    dtype: dtype of the result; the streams' own by default. Sums are float32.
    implementation: the backend, "auto" or "xla".
    derivatives: "custom" uses derivatives written by hand, "autodiff" JAX's own (forward mode needs
      these).

  Returns:
    `[..., v * w]` in `dtype`.

  Raises:
    ValueError: if the maps or gates do not fit the streams or their leading axes; if the streams
      are not of floating point or have one axis; if an option is unknown.
  """
  check_options(implementation, derivatives)
  _check_fit("read", streams, [("read", coefs.read, -1)])
  if (gates := getattr(coefs, "gates", None)) is not None:  # a user's own maps need not have it
    h = channels.read(streams, gates, dtype or streams.dtype, derivatives)
  else:
    h = combine.read(coefs.read, streams, dtype or streams.dtype, derivatives)
  return h.reshape(*streams.shape[:-2], h.shape[-2] * h.shape[-1])


def write(
  streams: jax.Array,
  branch_output: jax.Array,
  coefs: Coefs,
  *,
  implementation: str = "auto",
  derivatives: str = "custom",
) -> jax.Array:
  """Returns the next streams `mix @ X + write @ y` (2409.19606 Eq. 4 and 5).

  Args:
    streams: the streams that `read` was given, `[..., n, w]`.
    branch_output: y, `[..., v * w]`, of a floating-point dtype.
    coefs: maps of the site.
    implementation: backend, as in `read`.
    derivatives: "custom" or "autodiff", as in `read`.

  Returns:
    `[..., n, w]` in the streams' dtype, rounded once.

  Raises:
    ValueError: if the branch output is not `[..., v * w]` or not of floating point; if the maps
      have both a slot and a mix; in the cases of `read`.
  """
  check_options(implementation, derivatives)
  maps = [("write", coefs.write, -2)]
  if coefs.mix is not None:
    maps += [("mix", coefs.mix, -1), ("mix", coefs.mix, -2)]
  _check_fit("write", streams, maps)
  *lead, _, w = streams.shape
  v = coefs.write.shape[-1]
  if branch_output.shape != (*lead, v * w):
    raise ValueError(
      f"write: the branch output is {branch_output.shape}, but streams {streams.shape} take "
      f"{(*lead, v * w)}; a branch must return the shape of its input (with several views, of one)"
    )
  if not jnp.issubdtype(branch_output.dtype, jnp.floating):
    raise ValueError(
      f"write: the branch output is {branch_output.dtype}, and streams hold {streams.dtype}; "
      "a branch must return floating point (any: float32 into bfloat16 streams is rounded once)"
    )
  y = branch_output.reshape(*lead, v, w)
  if (slot := getattr(coefs, "slot", None)) is not None:
    if coefs.mix is not None:
      raise ValueError("write: coefs with a slot change one stream alone, and cannot have a mix")
    return _constrain(combine.write_slot(slot, coefs.write, streams, y, derivatives))
  return _constrain(combine.write(coefs.mix, coefs.write, streams, y, derivatives))


def _check_fit(what: str, streams: jax.Array, maps: Sequence[tuple[str, jax.Array, int]]) -> None:
  """Raises ValueError unless the maps fit the streams.

  Args:
    what: name of the operation, for messages.
    streams: `[..., n, w]`.
    maps: name, array and axis of the streams of each map.
  """
  if not jnp.issubdtype(streams.dtype, jnp.floating):
    raise ValueError(
      f"{what}: streams are {streams.dtype}, which would be rounded to whole numbers at every "
      "sublayer; make them floating point: streams.astype(jnp.float32)"
    )
  if streams.ndim < 2:
    raise ValueError(
      f"{what}: streams are {streams.shape}, not [..., n, w]; make them with hc_jax.expand"
    )
  *lead, n, _ = streams.shape
  for name, value, axis in maps:
    if value.shape[axis] != n:
      raise ValueError(
        f"{what}: coefs.{name} {value.shape} is of {value.shape[axis]} streams, but "
        f"streams {streams.shape} are {n}; give {what} the streams [..., n, w] and the coefs of "
        "the same connection"
      )
    own = value.shape[:-2]
    pairs = zip(reversed(own), reversed(lead), strict=False)
    if len(own) > len(lead) or any(size not in (1, wanted) for size, wanted in pairs):
      raise ValueError(
        f"{what}: coefs.{name} {value.shape} is of tokens {own}, but streams "
        f"{streams.shape} have tokens {tuple(lead)}; use the coefs that were made from these "
        "streams (static ones have no axes of tokens)"
      )


def _constrain(streams: jax.Array) -> jax.Array:
  return axes.constrain(streams, axes.stream_axes(streams.ndim))


def _check_fractions(num_streams: int, fractions: int) -> None:
  if not 1 <= fractions <= num_streams:
    raise ValueError(
      f"{num_streams} streams cannot hold {fractions} fractions: fractions must be at least 1 "
      "and at most num_streams"
    )
