"""Sinkhorn: the goldens, both gradients in both implementations, logits of any size."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hc_jax import ops
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.reference import gated as reference_gated
from hc_jax.testing.reference import hyper as reference

# 2512.24880 Eq. 9 with 20 steps on 2 sin(4i + j), in float64.
Z = np.float32([[2 * np.sin(4 * i + j) for j in range(4)] for i in range(4)])
GOLDEN = [
  [0.102589, 0.484037, 0.350507, 0.062867],
  [0.092274, 0.054001, 0.132900, 0.720824],
  [0.762870, 0.210839, 0.019695, 0.006596],
  [0.042266, 0.251122, 0.496899, 0.209714],
]
LOGITS = normal("logits", 2, 3, 4, 4)
WEIGHTS = normal("weights", 2, 3, 4, 4)


def relative(got, want):
  return np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)


def gradient(z=LOGITS, **options):
  return jit(jax.grad(lambda z: jnp.sum(WEIGHTS * ops.sinkhorn(z, **options))))(z)


def exact_gradient(eps=0.0, steps=20):
  """Complex steps through the float64 loop; V4's comb is our transpose."""

  def matrix(z):
    if eps:
      return np.swapaxes(reference_gated.comb(np.swapaxes(z, -1, -2), steps, eps), -1, -2)
    return reference_gated.sinkhorn(z, steps)

  return reference.gradient(
    lambda at: np.sum(WEIGHTS * matrix(at["z"])), {"z": LOGITS.astype(np.float64)}
  )["z"]


def test_goldens():
  np.testing.assert_allclose(ops.sinkhorn(Z), GOLDEN, atol=1e-6)
  np.testing.assert_allclose(ops.sinkhorn(Z, eps=1e-6), GOLDEN, atol=2e-5)
  np.testing.assert_array_equal(ops.sinkhorn(np.zeros((4, 4))), np.full((4, 4), 0.25))
  eye = np.eye(4, dtype=np.float32)
  for logits, diagonal, off in (
    (8 * (eye - 1), 0.998995, 0.000335),
    (eye, 0.475367, 0.174878),
    (4 * eye, 0.947915, 0.017362),
  ):
    np.testing.assert_allclose(
      ops.sinkhorn(logits), diagonal * eye + off * (1 - eye), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("n", [1, 2, 4, 8])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_rows_are_exact_and_columns_near(n, eps):
  p = np.asarray(jit(lambda z: ops.sinkhorn(z, eps=eps))(normal(f"z{n}", 50, n, n)))
  assert p.shape == (50, n, n) and p.min() >= 0
  rows, columns = np.abs(p.sum(-1) - 1), np.abs(p.sum(-2) - 1)
  assert rows.max() < (5e-6 if eps else 5e-7)
  assert np.median(columns) < 2e-6 and columns.max() < 1e-2
  if n > 2:  # after so few steps the columns are off, the rows never are
    p = np.asarray(ops.sinkhorn(3 * normal(f"z{n}", 50, n, n), steps=2))
    assert np.abs(p.sum(-1) - 1).max() < 5e-7 < 1e-2 < np.abs(p.sum(-2) - 1).max()


def test_eps_is_added_wherever_deepseek_v4_adds_it():
  for steps in (1, 2, 20):
    got = ops.sinkhorn(Z, eps=0.1, steps=steps)
    np.testing.assert_allclose(got, reference_gated.comb(Z.T, steps, 0.1).T, atol=1e-6)


@pytest.mark.parametrize("derivatives", ops.DERIVATIVES)
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_exact_gradient_is_that_of_the_steps(derivatives, eps, steps):
  got = gradient(eps=eps, steps=steps, derivatives=derivatives)
  assert relative(got, exact_gradient(eps, steps)) < 1e-5


@pytest.mark.parametrize("derivatives", ops.DERIVATIVES)
def test_the_implicit_gradient_is_that_of_the_limit(derivatives):
  limit = exact_gradient(steps=400)
  got = gradient(gradient="implicit", steps=400, derivatives=derivatives)
  assert relative(got, limit) < 1e-5
  # Where few steps have not converged, only the exact one is theirs.
  assert relative(gradient(steps=2), limit) > 1e-2
  few = gradient(gradient="implicit", steps=2, derivatives=derivatives)
  assert relative(few, exact_gradient(steps=2)) > 1e-2


def test_the_implicit_gradient_near_the_identity():
  """The system is all but singular there, and single precision must not show."""
  z = -8 * (1 - np.eye(4, dtype=np.float32)) + 0.1 * LOGITS
  p = reference_gated.sinkhorn(z.astype(np.float64), 20_000)
  want = gradient_by_least_squares(p, WEIGHTS.astype(np.float64))
  assert relative(gradient(z, gradient="implicit", steps=20_000), want) < 1e-3
  assert relative(gradient(z, steps=20), want) > 0.1  # another thing there: see the docstring


def gradient_by_least_squares(p, g):
  """`p (g - a 1^T - 1 b^T)` with sums of zero, by NumPy's pseudo-inverse."""
  n = p.shape[-1]
  out = np.zeros_like(p)
  for at in np.ndindex(p.shape[:-2]):
    system = np.block([[np.eye(n), p[at]], [p[at].T, np.eye(n)]])
    weighted = p[at] * g[at]
    sums = np.concatenate([weighted.sum(1), weighted.sum(0)])
    ab = np.linalg.lstsq(system, sums, rcond=1e-13)[0]
    out[at] = p[at] * (g[at] - ab[:n, None] - ab[None, n:])
  return out


@pytest.mark.parametrize("gradient_kind", ops.SINKHORN_GRADIENTS)
def test_forward_mode(gradient_kind):
  """Autodiff's jvp agrees with the symmetric derivative of the limit, or with differences."""

  def run(z):
    return ops.sinkhorn(z, gradient=gradient_kind, steps=400, derivatives="autodiff")

  _, change = jit(lambda z, dz: jax.jvp(run, (z,), (dz,)))(LOGITS, WEIGHTS)
  z, step = LOGITS.astype(np.float64), 1e-30
  want = np.imag(reference_gated.sinkhorn(z + 1j * step * WEIGHTS, 400)) / step
  assert relative(change, want) < 1e-5


@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_huge_logits_stay_finite(size, eps):
  z = size * LOGITS
  rows = np.sum(ops.sinkhorn(z, eps=eps), axis=-1)
  np.testing.assert_allclose(rows, np.ones_like(rows), atol=1e-5)
  for kind in ops.SINKHORN_GRADIENTS:
    assert np.all(np.isfinite(gradient(z, eps=eps, gradient=kind))), kind


@pytest.mark.parametrize("kind", ops.SINKHORN_GRADIENTS)
def test_an_exact_permutation_has_a_finite_gradient(kind):
  z = np.broadcast_to(-1e3 * (1 - np.eye(4, dtype=np.float32)), LOGITS.shape)
  assert not np.any(np.isnan(gradient(z, gradient=kind)))


def program(steps, **options):
  def loss(z):
    return jnp.sum(WEIGHTS * ops.sinkhorn(z, steps=steps, **options))

  return str(jax.make_jaxpr(jax.grad(loss))(LOGITS))


@pytest.mark.parametrize("kind", ops.SINKHORN_GRADIENTS)
@pytest.mark.parametrize("derivatives", ops.DERIVATIVES)
def test_the_loop_is_not_unrolled(kind, derivatives):
  few, many = (
    re.sub(r"length=\d+", "", program(s, gradient=kind, derivatives=derivatives)) for s in (5, 50)
  )
  assert len(few.splitlines()) == len(many.splitlines())


def test_what_is_kept_for_the_backward_pass_does_not_grow():
  """The logits alone (or the result), not an iterate for every step."""
  for kind in ops.SINKHORN_GRADIENTS:
    kept = jax.eval_shape(
      lambda z, kind=kind: jax.vjp(lambda z: ops.sinkhorn(z, gradient=kind), z)[1], LOGITS
    )
    assert sum(a.size for a in jax.tree.leaves(kept)) <= LOGITS.size


def test_refusals():
  with pytest.raises(ValueError, match="at least one step"):
    ops.sinkhorn(Z, steps=0)
  with pytest.raises(ValueError, match="'exact', 'implicit'"):
    ops.sinkhorn(Z, gradient="unrolled")
  with pytest.raises(ValueError, match="autodiff"):
    ops.sinkhorn(Z, derivatives="fast")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ops.SINKHORN_GRADIENTS)
def test_gradients_are_finite_for_large_cotangents(kind, dtype):
  """Also of logits far apart, and of a permutation."""
  logits = np.concatenate([s * normal("large", 20, 4, 4) for s in (1, 3, 30)])
  logits = np.concatenate([logits, np.where(np.eye(4), 0, -80.0)[None].astype(np.float32)])

  @jit
  def gradient_of(cotangent):
    value, pull = jax.vjp(lambda z: ops.sinkhorn(z, gradient=kind).astype(dtype), logits)
    return pull(cotangent.astype(value.dtype))[0]

  for size in (1e4, 1e6):
    found = np.asarray(gradient_of(size * normal("cotangent", *logits.shape)))
    assert np.all(np.isfinite(found))
    if kind == "exact":  # the limit's is larger where twenty steps do not reach it
      assert np.abs(found).max() < 10 * size
