"""The norm and the projection of dynamic maps, as one contraction."""

import functools

import jax
import jax.numpy as jnp

from hc_jax.ops.combine import HIGHEST, lift, sum_together
from hc_jax.ops.options import check_options, reverse_mode
from hc_jax.ops.platform import alike, by_platform, explicit_sharding, explicit_spec, stored

NORMS = ("layernorm", "rmsnorm")
NORM_OVER = ("all", "stream", "group")
_FEW = 64  # number of elements whose mean is a first guess at the mean
_TINY = 1e-24  # with a smaller eps, zeros need a floor in the norm, and rstd^3 overflows float32


def project(
  streams: jax.Array,
  kernel: jax.Array,
  *,
  norm: str = "layernorm",
  scale: jax.Array | None = None,
  bias: jax.Array | None = None,
  eps: float = 1e-5,
  norm_over: str = "all",
  implementation: str = "auto",
  derivatives: str = "custom",
) -> jax.Array:
  """Returns `norm(X) @ kernel`, for each stream alone or for all streams as one long vector.

  The kernel's shape decides. HC projects each stream alone (2409.19606 Eq. 10-13, before the tanh).
  mHC projects all n streams at once (2512.24880 Eq. 7), without merging their axes. Gated residuals
  project all streams after a norm of each stream (`norm_over="stream"`). Where g streams are the
  fractions of one state, `norm_over="group"` norms and projects each g streams as one.

  The norm is folded into the kernel: `norm(x) @ W = (x @ W') * rstd + bias @ W`. W' is W times the
  norm's scale, with centred columns for LayerNorm. Hence no normed streams are computed, except for
  `norm_over="stream"`.

  Args:
    streams: `[..., n, w]`.
    kernel: float32 `[w, k]` for each stream, `[n, w, k]` for all, `[g, w, k]` for groups.
    norm: "layernorm" or "rmsnorm".
    scale: scale of the norm, `[w]`, `[n, w]` or `[g, w]` like the kernel, or None.
    bias: bias of the norm in the same shape, or None.
    eps: added to the variance (to the mean square for rmsnorm). See `reciprocal_std` for zero.
    norm_over: "all" norms over all axes of the kernel except the last. "stream" norms each stream
      alone, as a kernel `[w, k]` always does. "group" norms each group of g consecutive streams.
    implementation: the backend, "auto" or "xla".
    derivatives: "custom" uses derivatives written by hand, "autodiff" JAX's own.

  Returns:
    Float32 `[..., n, k]`, `[..., k]` for all streams, or `[..., n // g, k]` for groups.

  Raises:
    ValueError: if `norm`, `norm_over`, `implementation` or `derivatives` is unknown, or if n is not
      a multiple of g.
  """
  check_norm(norm)
  check_options(implementation, derivatives)
  if norm_over not in NORM_OVER:
    raise ValueError(f"norm_over={norm_over!r} is unknown; choose one of {NORM_OVER}")
  kernel = kernel.astype(jnp.float32)  # with x64 enabled it may be float64
  if norm_over == "group":
    streams = _groups(streams, kernel)
  if norm_over == "stream" and kernel.ndim == 3:
    run = functools.partial(_project_normed, norm=norm, eps=eps)
    if derivatives == "custom":
      run = jax.checkpoint(run)  # saves no float32 normed streams for the backward pass
    return run(streams, kernel, scale, bias)
  weights = kernel if scale is None else scale[..., None] * kernel
  if norm == "layernorm":
    # (x - mean) @ W = x @ (W - mean of W's columns): centring W once spares a pass over x.
    weights = weights - jnp.mean(weights, axis=tuple(range(kernel.ndim - 1)), keepdims=True)
  if derivatives == "autodiff":
    logits = _primal(streams, weights, norm, eps)
  else:
    with reverse_mode():
      logits = _project(*alike(streams, weights.astype(jnp.float32)), norm, eps)
  if bias is not None:
    names, _ = _inputs(kernel)
    shift = jnp.einsum(f"{names},{names}k->k", bias, kernel, precision=HIGHEST)
    logits = logits + lift(shift, logits.ndim)
  return logits


def check_norm(norm: str) -> None:
  """Raises ValueError unless `norm` is one of `NORMS`."""
  if norm not in NORMS:
    raise ValueError(f"norm={norm!r} is unknown; choose one of {', '.join(map(repr, NORMS))}")


def normed(streams: jax.Array, norm: str, eps: float) -> jax.Array:
  """Computes the norm of each stream alone, without scale and bias, float32 `[..., n, w]`."""
  x = streams.astype(jnp.float32)
  if norm == "layernorm":
    x = x - jnp.mean(x, axis=-1, keepdims=True)
  square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
  return x * reciprocal_std(square, eps, norm, x.shape[-1])


def _groups(streams, kernel):
  """Returns streams `[..., n, w]` as groups `[..., n // g, g, w]`, for a kernel `[g, w, k]`."""
  *lead, n, w = streams.shape
  if kernel.ndim != 3 or n % kernel.shape[0]:
    raise ValueError(
      f'norm_over="group" needs a kernel [g, w, k] of groups of g streams, but the kernel is '
      f"{kernel.shape} and there are {n} streams; give a g that divides {n}"
    )
  return streams.reshape(*lead, n // kernel.shape[0], kernel.shape[0], w)


def _project_normed(streams, kernel, scale, bias, norm, eps):
  """Projects all streams, each normed alone: float32 `[..., k]`."""
  x = normed(streams, norm, eps)
  x = x if scale is None else x * lift(scale, x.ndim)
  x = x if bias is None else x + lift(bias, x.ndim)
  return _contract(x, kernel)


def reciprocal_std(square: jax.Array, eps: float, norm: str, size: int) -> jax.Array:
  """Computes `1 / sqrt(square + eps)`, finite for every square, with finite derivatives.

  With an eps below 1e-24, zeros would have no norm. RMSNorm then divides by the Euclidean norm or
  1e-12, whichever is larger, as `torch.nn.functional.normalize` does: zeros stay zero, and their
  derivative is 1e12 times the root of the size. LayerNorm then maps equal elements to zero, with
  derivative zero.

  Args:
    square: the variance (the mean square for rmsnorm), float32.
    eps: added to `square`.
    norm: "layernorm" or "rmsnorm".
    size: number of elements over which `square` is the mean.
  """
  if eps >= _TINY:
    return jax.lax.rsqrt(square + eps)
  floor = _TINY / size
  small = square + eps < floor
  # A quotient of a root, because rsqrt's derivative overflows; selected, because a maximum's
  # derivative would multiply by zero, and zero times infinity is NaN.
  rstd = 1.0 / jnp.sqrt(jnp.where(small, floor, square + eps))
  return jnp.where(small, 0.0, rstd) if norm == "layernorm" else rstd


def _inputs(kernel):
  """Returns names and numbers of the axes that a kernel `[w, k]` or `[n, w, k]` contracts."""
  count = kernel.ndim - 1
  return "nw"[-count:], tuple(range(-count, 0))


def _primal(streams, weights, norm, eps):
  product, _, rstd = _product(streams, weights, norm, eps)
  return product * rstd


def _product(streams, weights, norm, eps):
  """Returns `x @ weights` `[..., k]`, the mean (zero for rmsnorm) and 1 / std, both `[..., 1]`."""
  _, axes = _inputs(weights)
  x = streams.astype(jnp.float32)
  if norm == "layernorm":
    mean = jnp.mean(x, axis=axes)
    square = jnp.mean(jnp.square(x - jnp.expand_dims(mean, axes)), axis=axes)
  else:
    square = jnp.mean(jnp.square(x), axis=axes)
    mean = jnp.zeros_like(square)
  rstd = reciprocal_std(square, eps, norm, weights[..., 0].size)
  return _contract(x, weights), mean[..., None], rstd[..., None]


def _contract(x, weights):
  names, _ = _inputs(weights)
  return jnp.einsum(f"...{names},{names}k->...k", x, weights, precision=HIGHEST)


def _with_sums(streams, weights, norm, eps, sums):
  """Computes `_product` from sums over x alone, for which one kernel needs one pass.

  The variance is computed as `E[(x-c)^2] - E[x-c]^2`, with c the mean of a few elements of x. It
  loses a factor of `(E[x]-c)^2 / var[x]` to rounding, at most w / few for every x. With c = 0 a
  stream with a large mean would lose all digits; c = E[x] would need a second pass.
  """
  _, axes = _inputs(weights)
  size = weights[..., 0].size
  x = streams.astype(jnp.float32)
  near = jnp.zeros((1,) * x.ndim, jnp.float32)
  if norm == "layernorm":
    few = streams[..., :_FEW].astype(jnp.float32)
    near = jnp.mean(few, axis=axes, keepdims=True)
  terms = [jnp.square(x - near)] + ([x - near] if norm == "layernorm" else [])
  if by_columns := weights.ndim == 2:  # kernels of all streams have too many columns for sums
    terms += [x * lift(column, x.ndim) for column in weights.T]
  square, *rest = sums(terms, axes)
  square /= size
  shift = rest.pop(0) / size if norm == "layernorm" else jnp.zeros_like(square)
  variance = jnp.maximum(square - jnp.square(shift), 0.0)
  mean = shift + jnp.mean(near, axis=axes)
  product = jnp.stack(rest, axis=-1) if by_columns else _contract(x, weights)
  return product, mean[..., None], reciprocal_std(variance, eps, norm, size)[..., None]


def _sum_each(terms, axes):
  """Returns the sums of all terms. For a GPU XLA fuses up to eight sums into one pass over x."""
  return [jnp.sum(term, axis=axes) for term in terms]


def _for_cpu(streams, weights, norm, eps):
  """Computes `_product` for CPUs: few columns in one pass over x, many by a matrix product."""
  if weights.ndim > 2 or weights.shape[-1] > 6:
    return _product(streams, weights, norm, eps)
  return _with_sums(streams, weights, norm, eps, sum_together)


def _saved_product(streams, weights, norm, eps):
  """Computes `_product` in the form that moves the fewest bytes on the platform."""
  form = functools.partial(_with_sums, norm=norm, eps=eps)
  return by_platform(
    streams,
    weights,
    default=functools.partial(_for_cpu, norm=norm, eps=eps),
    gpu=functools.partial(form, sums=_sum_each),
    tpu=functools.partial(form, sums=sum_together),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _project(streams, weights, norm, eps):
  return _forward(streams, weights, norm, eps)[0]


def _forward(streams, weights, norm, eps):
  product, mean, rstd = _saved_product(streams, weights, norm, eps)
  return product * rstd, (streams, weights, product, mean, rstd)


def _backward(norm, eps, saved, grad):
  del norm
  streams, weights, product, mean, rstd = saved
  names, axes = _inputs(weights)
  x = streams.astype(jnp.float32)
  d_product = grad * rstd
  # k comes before w in the result, so that the contraction over all tokens runs along rows of both.
  spec = explicit_spec(weights)
  sharding = explicit_sharding(weights, spec and (spec[-1], *spec[:-1]))
  d_weights = jnp.einsum(
    f"...k,...{names}->k{names}", d_product, x, precision=HIGHEST, out_sharding=sharding
  )
  d_square = _d_square(jnp.sum(grad * product, axis=-1, keepdims=True), rstd, eps, weights)
  thrifty = functools.partial(_spread_thriftily, dtype=streams.dtype)
  spread = by_platform(d_product, weights, default=_spread, gpu=thrifty, tpu=thrifty)
  d_square, mean = (jnp.expand_dims(a[..., 0], axes) for a in (d_square, mean))
  d_streams = spread - d_square * (x - mean)
  return d_streams.astype(streams.dtype), jnp.moveaxis(d_weights, 0, -1)


def _d_square(d_rstd, rstd, eps, weights):
  """Returns c in `d_streams = ... - c * (x - mean)`, without overflow for large rstd."""
  size = weights[..., 0].size
  if eps >= _TINY:
    return d_rstd * rstd**3 / size
  largest = (size / _TINY) ** 0.5  # at the floor rstd is constant; its rounding differs by device
  return jnp.where(rstd < (1 - 1e-6) * largest, d_rstd * rstd * rstd * rstd / size, 0.0)


def _spread(d_product, weights):
  """Returns `d_product @ weights^T`, the derivative of the product with respect to x."""
  names, _ = _inputs(weights)
  return jnp.einsum(f"...k,{names}k->...{names}", d_product, weights, precision=HIGHEST)


def _spread_thriftily(d_product, weights, dtype):
  """Computes `_spread` by multiply-adds, which XLA fuses with the rest of the derivative.

  With many columns it is a matrix product, stored in the streams' dtype: float32 would take twice
  the bytes.
  """
  if weights.ndim > 2:
    return stored(_spread(d_product, weights).astype(dtype)).astype(jnp.float32)
  ndim = d_product.ndim
  terms = [d_product[..., c, None] * lift(column, ndim) for c, column in enumerate(weights.T)]
  return sum(terms[1:], start=terms[0])


_project.defvjp(_forward, _backward)
