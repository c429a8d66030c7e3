"""The norm and the projection from which dynamic coefficients are made, as one contraction."""

import functools

import jax
import jax.numpy as jnp

from hc_jax.ops.combine import HIGHEST, lift, sum_together
from hc_jax.ops.options import check_options, reverse_mode
from hc_jax.ops.platform import alike, by_platform, explicit_sharding, explicit_spec, stored

NORMS = ("layernorm", "rmsnorm")
NORM_OVER = ("all", "stream", "group")
_FEW = 64  # elements of which a first guess at the mean is made
_TINY = 1e-24  # below this eps a norm of zeros needs a floor, and rstd^3 overflows float32


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
  """Returns `norm(X) @ kernel`: of each stream by itself, or of all streams as one long vector.

  Which of them is the kernel's shape: HC's generators see one stream (2409.19606 Eq. 10-13, before
  the tanh), those of mHC all n of them (2512.24880 Eq. 7), without the axes being merged. Gated
  residuals project all streams after a norm of each by itself (`norm_over="stream"`). Where g
  streams are the fractions of one state, `norm_over="group"` norms and projects each g as one.

  The norm is folded in: `norm(x) @ W = (x @ W') * rstd + bias @ W`, where W' is W with the norm's
  scale multiplied in and, for LayerNorm, its columns centred. The normed streams never exist.

  Args:
    streams: `[..., n, w]`.
    kernel: `[w, k]` for each stream, `[n, w, k]` for all, `[g, w, k]` for groups; float32.
    norm: "layernorm" or "rmsnorm".
    scale: `[w]` (`[n, w]`, `[g, w]`) or None, the norm's own scale.
    bias: likewise, the norm's own bias.
    eps: added to the variance (to the mean square for rmsnorm); see `reciprocal_std` for zero.
    norm_over: "all" norms over all axes of the kernel but the last, "stream" each stream by itself,
      which a kernel `[w, k]` always does, "group" each group of g streams that follow each other.
    implementation: the backend, "auto" or "xla".
    derivatives: "custom" is written by hand, "autodiff" leaves them to JAX.

  Returns:
    `[..., n, k]`, for all streams `[..., k]`, for groups `[..., n // g, k]`; float32.

  Raises:
    ValueError: if `norm`, `norm_over`, `implementation` or `derivatives` is unknown, or the streams
      are not whole groups.
  """
  check_norm(norm)
  check_options(implementation, derivatives)
  if norm_over not in NORM_OVER:
    raise ValueError(f"norm_over={norm_over!r} is unknown; choose one of {NORM_OVER}")
  kernel = kernel.astype(jnp.float32)  # float64 where a user's x64 made it so
  if norm_over == "group":
    streams = _groups(streams, kernel)
  if norm_over == "stream" and kernel.ndim == 3:
    run = functools.partial(_project_normed, norm=norm, eps=eps)
    if derivatives == "custom":
      run = jax.checkpoint(run)  # the normed streams, in float32, are made again
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
  """Computes the norm of each stream by itself, without scale and bias; float32 `[..., n, w]`."""
  x = streams.astype(jnp.float32)
  if norm == "layernorm":
    x = x - jnp.mean(x, axis=-1, keepdims=True)
  square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
  return x * reciprocal_std(square, eps, norm, x.shape[-1])


def _groups(streams, kernel):
  """Streams `[..., n, w]` as `[..., n // g, g, w]`, for a kernel `[g, w, k]`."""
  *lead, n, w = streams.shape
  if kernel.ndim != 3 or n % kernel.shape[0]:
    raise ValueError(
      f'norm_over="group" needs a kernel [g, w, k] of groups of g streams, but the kernel is '
      f"{kernel.shape} and there are {n} streams; give a g that divides {n}"
    )
  return streams.reshape(*lead, n // kernel.shape[0], kernel.shape[0], w)


def _project_normed(streams, kernel, scale, bias, norm, eps):
  """Of all streams, each of them normed by itself: float32 `[..., k]`."""
  x = normed(streams, norm, eps)
  x = x if scale is None else x * lift(scale, x.ndim)
  x = x if bias is None else x + lift(bias, x.ndim)
  return _contract(x, kernel)


def reciprocal_std(square: jax.Array, eps: float, norm: str, size: int) -> jax.Array:
  """Computes `1 / sqrt(square + eps)`, finite for every square, with finite derivatives.

  An eps below 1e-24 leaves zeros without a norm. RMSNorm then divides by the Euclidean norm or
  1e-12, whichever is larger, as `torch.nn.functional.normalize` does: zeros stay zero, and their
  derivative is 1e12 times the root of the size. LayerNorm makes equal elements zero, and so their
  derivative.

  Args:
    square: float32, the variance (the mean square for rmsnorm).
    eps: added to it.
    norm: "layernorm" or "rmsnorm".
    size: number of elements that `square` is a mean of.
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
  """The axes of the streams that a kernel `[w, k]` or `[n, w, k]` contracts: names, numbers."""
  count = kernel.ndim - 1
  return "nw"[-count:], tuple(range(-count, 0))


def _primal(streams, weights, norm, eps):
  product, _, rstd = _product(streams, weights, norm, eps)
  return product * rstd


def _product(streams, weights, norm, eps):
  """`x @ weights` `[..., k]`, and `[..., 1]` the mean (zero for rmsnorm) and 1 / std."""
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
  """`_product` by sums over x alone, which one kernel can make in one pass.

  The variance is that of x - c, c the mean of a few of its elements: `E[(x-c)^2] - E[x-c]^2` loses
  to rounding `(E[x]-c)^2 / var[x]`, which is at most w / few whatever x is. Without c a stream with
  a large mean would lose everything; c = E[x] would be a second pass.
  """
  _, axes = _inputs(weights)
  size = weights[..., 0].size
  x = streams.astype(jnp.float32)
  near = jnp.zeros((1,) * x.ndim, jnp.float32)
  if norm == "layernorm":
    few = streams[..., :_FEW].astype(jnp.float32)
    near = jnp.mean(few, axis=axes, keepdims=True)
  terms = [jnp.square(x - near)] + ([x - near] if norm == "layernorm" else [])
  if by_columns := weights.ndim == 2:  # all streams at once have many: a matrix product
    terms += [x * lift(column, x.ndim) for column in weights.T]
  square, *rest = sums(terms, axes)
  square /= size
  shift = rest.pop(0) / size if norm == "layernorm" else jnp.zeros_like(square)
  variance = jnp.maximum(square - jnp.square(shift), 0.0)
  mean = shift + jnp.mean(near, axis=axes)
  product = jnp.stack(rest, axis=-1) if by_columns else _contract(x, weights)
  return product, mean[..., None], reciprocal_std(variance, eps, norm, size)[..., None]


def _sum_each(terms, axes):
  """XLA makes one kernel for a GPU of up to eight sums over x, which reads it once."""
  return [jnp.sum(term, axis=axes) for term in terms]


def _for_cpu(streams, weights, norm, eps):
  """Few columns in one pass over x, which is faster on CPU; many by a matrix product."""
  if weights.ndim > 2 or weights.shape[-1] > 6:
    return _product(streams, weights, norm, eps)
  return _with_sums(streams, weights, norm, eps, sum_together)


def _saved_product(streams, weights, norm, eps):
  """`_product`, in the form that the platform moves the fewest bytes for."""
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
  # k before w in the result: the contraction over all tokens then runs along rows of both.
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
  """Returns c of `d_streams = ... - c * (x - mean)`, without overflow however large rstd is."""
  size = weights[..., 0].size
  if eps >= _TINY:
    return d_rstd * rstd**3 / size
  largest = (size / _TINY) ** 0.5  # at the floor rstd is constant; its rounding differs by device
  return jnp.where(rstd < (1 - 1e-6) * largest, d_rstd * rstd * rstd * rstd / size, 0.0)


def _spread(d_product, weights):
  """`d_product @ weights^T`, the derivative of the product by x."""
  names, _ = _inputs(weights)
  return jnp.einsum(f"...k,{names}k->...{names}", d_product, weights, precision=HIGHEST)


def _spread_thriftily(d_product, weights, dtype):
  """As multiply-adds, which fuse with all else that the streams' derivative is made of.

  Of many columns it is a matrix product, stored in the streams' dtype: float32 is twice the bytes.
  """
  if weights.ndim > 2:
    return stored(_spread(d_product, weights).astype(dtype)).astype(jnp.float32)
  ndim = d_product.ndim
  terms = [d_product[..., c, None] * lift(column, ndim) for c, column in enumerate(weights.T)]
  return sum(terms[1:], start=terms[0])


_project.defvjp(_forward, _backward)
