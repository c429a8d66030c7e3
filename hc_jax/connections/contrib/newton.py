"""mHC whose mix is doubly stochastic to rounding: Newton's method instead of Sinkhorn's."""

import dataclasses

import jax
import jax.numpy as jnp

from hc_jax.connections.contrib.small_matrices import identity, matmul, solve
from hc_jax.connections.facts import Facts
from hc_jax.connections.gated import FAR, GatedConnection

STEPS, SIZES = 20, (1.0, 0.5, 0.125)
LOWEST = -30.0  # lowest logit relative to the largest of its row; in float32, 1 + e^-30 is 1
REGULAR = (1e-7, 1e-3)  # bounds of the term that is added to the Hessian's diagonal


class NewtonHC(GatedConnection):
  """mHC with the exact projection (mHC-proj), arXiv 2606.07574.

  The mix is the limit of Sinkhorn's steps: `diag(e^a) e^R diag(e^b)` for the logits R, with rows
  and columns that sum to one. Newton's method finds b in a fixed number of steps. The gradient is
  that of the limit, by one small solve. Both agree with `MHC(sinkhorn_gradient="implicit")` where
  its steps converge.

  Each step tries Newton's step, half and an eighth of that step, and one Sinkhorn step. It takes
  the one with the lowest dual, which the solution minimises. Logits are clipped at 30 below the
  largest of their row.

  Parameters for n > 1: `(nd + 1)(n^2 + 2n) + 3`; `nd` more with `norm_params`.
  """

  def facts(self, d_model: int) -> Facts:
    facts = super().facts(d_model)
    return dataclasses.replace(
      facts, source="arXiv 2606.07574", mix_rows_sum_to_one=2e-6, mix_columns_sum_to_one=1e-4
    )

  def num_mix_logits(self) -> int:
    return self.num_streams**2 if self.num_streams > 1 else 0

  def mix_bias(self) -> jax.Array:
    return (FAR * (1 - jnp.eye(self.num_streams, dtype=jnp.float32))).reshape(-1)

  def mix_of(self, logits: jax.Array) -> jax.Array:
    n = self.num_streams
    return project(logits.reshape(*logits.shape[:-1], n, n))


def project(logits: jax.Array) -> jax.Array:
  """Returns the doubly stochastic matrix of the form `diag(e^a) e^logits diag(e^b)`, `[..., n, n]`.

  Derivatives are those of the solution. The search has none; two more steps of Newton's method,
  which do not change its result, carry first and second derivatives.
  """
  logits = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  logits = jnp.maximum(logits, LOWEST)
  b = jax.lax.stop_gradient(_search(jax.lax.stop_gradient(logits)))
  for _ in range(2):
    b = b - _direction(logits, b)
  return _balanced(logits, b)


def _search(logits: jax.Array) -> jax.Array:
  """Returns the solution b `[..., n]`, with zero as its last number."""

  def sinkhorn(b):
    rows = logits - jax.nn.logsumexp(logits + b[..., None, :], axis=-1, keepdims=True)
    return -jax.nn.logsumexp(rows, axis=-2)

  def step(_, b):
    along, best, lowest = _direction(logits, b), b, _dual(logits, b)
    for tried in (*(b - size * along for size in SIZES), sinkhorn(b)):
      value = _dual(logits, tried)
      best = jnp.where((value < lowest)[..., None], tried, best)
      lowest = jnp.minimum(value, lowest)
    return best - best[..., -1:]

  b = 0 * logits[..., 0, :]
  for _ in range(3):  # Newton's method needs a start near the solution
    b = sinkhorn(b)
  return jax.lax.fori_loop(0, STEPS, step, b - b[..., -1:])


def _balanced(logits: jax.Array, b: jax.Array) -> jax.Array:
  return jax.nn.softmax(logits + b[..., None, :], axis=-1)


def _dual(logits: jax.Array, b: jax.Array) -> jax.Array:
  """Computes the dual, which the solution minimises, `[...]`."""
  sums = jax.nn.logsumexp(logits + b[..., None, :], axis=-1)
  return jnp.sum(sums, axis=-1) - jnp.sum(b, axis=-1)


def _direction(logits: jax.Array, b: jax.Array) -> jax.Array:
  """Computes Newton's step for b, `[..., n]`; it leaves the last number unchanged."""
  mix = _balanced(logits, b)
  n = mix.shape[-1]
  excess = jnp.sum(mix, axis=-2)[..., :-1] - 1
  # The Hessian is diag(column sums) - mix^T mix. Rows sum to one, so its diagonal is the sum of the
  # other entries, without the cancellation of a mix near the identity.
  off = matmul(mix.swapaxes(-1, -2), mix) * (1 - identity(n, mix.ndim))
  hessian = jnp.sum(off, axis=-1, keepdims=True) * identity(n, mix.ndim) - off
  more = jnp.clip(jnp.sum(jnp.abs(excess), axis=-1) ** 2, *REGULAR)
  more = jax.lax.stop_gradient(more)[..., None, None] * identity(n - 1, mix.ndim)
  along = solve(hessian[..., :-1, :-1] + more, excess[..., None])[..., 0]
  return jnp.concatenate([along, jnp.zeros_like(along[..., :1])], axis=-1)
