"""Orientation by hand, shapes and dtypes, and derivatives that equal autodiff's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import ops


def random_coefs(key, n, v=1, lead=(), with_mix=True):
  keys = jax.random.split(key, 3)
  return hc.Coefs(
    read=jax.random.normal(keys[0], (*lead, v, n)),
    write=jax.random.normal(keys[1], (*lead, n, v)),
    mix=jax.random.normal(keys[2], (*lead, n, n)) if with_mix else None,
  )


def test_read_and_write_by_hand():
  """Two streams of width two, every number different: a transposed map cannot pass."""
  streams = jnp.array([[1.0, 0.0], [0.0, 10.0]])
  coefs = hc.Coefs(
    read=jnp.array([[2.0, 3.0]]),
    write=jnp.array([[5.0], [7.0]]),
    mix=jnp.array([[1.0, 2.0], [0.0, 4.0]]),  # stream 1 goes into stream 0, not the reverse
  )
  np.testing.assert_array_equal(hc.read(streams, coefs), [2.0, 30.0])
  np.testing.assert_array_equal(
    hc.write(streams, jnp.array([1.0, 1.0]), coefs), [[1 + 5, 20 + 5], [7, 40 + 7]]
  )


def test_read_and_write_of_two_slots_by_hand():
  streams = jnp.array([[1.0], [10.0], [100.0]])
  coefs = hc.Coefs(
    read=jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    write=jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]]),
    mix=None,
  )
  np.testing.assert_array_equal(hc.read(streams, coefs), [321.0, 654.0])
  np.testing.assert_array_equal(
    hc.write(streams, jnp.array([7.0, 9.0]), coefs), [[8.0], [19.0], [100.0 + 14 + 27]]
  )


def test_as_matrix_is_the_papers():
  coefs = hc.Coefs(
    read=jnp.array([[2.0, 3.0]]), write=jnp.array([[5.0], [7.0]]), mix=jnp.array([[1.0, 8], [9, 4]])
  )
  np.testing.assert_array_equal(coefs.as_matrix(), [[0, 5, 7], [2, 1, 9], [3, 8, 4]])


@pytest.mark.parametrize("lead", [(), (3,), (2, 5), (2, 3, 4)])
@pytest.mark.parametrize("n, m", [(1, 1), (4, 1), (4, 2), (3, 3)])
def test_expand_then_reduce_multiplies_by_the_copies(lead, n, m):
  x = jax.random.normal(jax.random.key(0), (*lead, 12))
  streams = hc.expand(x, n, m)
  chex.assert_shape(streams, (*lead, n, 12 // m))
  chex.assert_trees_all_close(hc.reduce(streams, m), x * (n // m), rtol=1e-6)
  np.testing.assert_array_equal(streams[..., n - 1, :], x[..., -(12 // m) :])


@pytest.mark.parametrize("stream_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_shapes_and_dtypes(stream_dtype, dtype):
  coefs = random_coefs(jax.random.key(0), 4, lead=(2, 5))
  streams = jnp.ones((2, 5, 4, 6), stream_dtype)
  h = hc.read(streams, coefs, dtype)
  chex.assert_shape(h, (2, 5, 6))
  chex.assert_type(h, dtype or stream_dtype)
  out = hc.write(streams, h, coefs)
  chex.assert_equal_shape([out, streams])
  chex.assert_type(out, stream_dtype)
  chex.assert_type(hc.reduce(streams), jnp.float32)


def test_bfloat16_streams_are_rounded_once():
  """Accumulation is float32: the result is the float32 result of the same operands, rounded."""
  coefs = random_coefs(jax.random.key(1), 8, lead=(64,))
  streams = jax.random.normal(jax.random.key(2), (64, 8, 16)).astype(jnp.bfloat16)
  y = jax.random.normal(jax.random.key(3), (64, 16)).astype(jnp.bfloat16)
  exact = hc.write(streams.astype(jnp.float32), y.astype(jnp.float32), coefs)
  np.testing.assert_array_equal(hc.write(streams, y, coefs), exact.astype(jnp.bfloat16))


SHAPES = [((), 1, 1), ((), 4, 1), ((7,), 3, 1), ((2, 5), 4, 1), ((2, 5), 8, 2), ((2, 1, 3), 2, 2)]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("with_mix", [False, True])
@pytest.mark.parametrize("lead, n, v", SHAPES)
def test_derivatives_are_autodiffs(lead, n, v, with_mix, static):
  """A loss on everything: outputs, coefficients used again, streams used twice."""
  coefs = random_coefs(jax.random.key(0), n, v, () if static else lead, with_mix)
  streams = jax.random.normal(jax.random.key(1), (*lead, n, 6))

  def loss(streams, coefs, implementation):
    h = hc.read(streams, coefs, implementation=implementation)
    out = hc.write(streams, jnp.sin(h), coefs, implementation=implementation)
    extra = jnp.sum(jnp.square(coefs.read)) + jnp.sum(jnp.cos(streams))
    return jnp.sum(jnp.sin(out)) + extra

  grad = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
  chex.assert_trees_all_close(
    grad(streams, coefs, "auto"), grad(streams, coefs, "autodiff"), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize("norm", ops.NORMS)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("lead, n, w", [((), 1, 5), ((3,), 4, 7), ((2, 5), 2, 16)])
def test_project_is_norm_then_product(lead, n, w, norm, affine):
  keys = jax.random.split(jax.random.key(0), 4)
  streams = 3 * jax.random.normal(keys[0], (*lead, n, w)) + 1
  kernel = jax.random.normal(keys[1], (w, 3))
  scale = jax.random.normal(keys[2], (w,)) if affine else None
  bias = jax.random.normal(keys[3], (w,)) if affine and norm == "layernorm" else None

  def plain(streams, kernel):
    x = streams - jnp.mean(streams, -1, keepdims=True) if norm == "layernorm" else streams
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)
    x = x * (1.0 if scale is None else scale.reshape((1,) * (x.ndim - 1) + (w,)))
    x = x + (0.0 if bias is None else bias.reshape((1,) * (x.ndim - 1) + (w,)))
    return x @ kernel

  def folded(streams, kernel, implementation):
    return ops.project(
      streams, kernel, norm=norm, scale=scale, bias=bias, implementation=implementation
    )

  for implementation in ops.IMPLEMENTATIONS:
    out = folded(streams, kernel, implementation)
    chex.assert_trees_all_close(out, plain(streams, kernel), rtol=1e-4, atol=1e-5)
    grads = jax.grad(lambda *a, i=implementation: jnp.sum(jnp.sin(folded(*a, i))), (0, 1))
    expected = jax.grad(lambda *a: jnp.sum(jnp.sin(plain(*a))), (0, 1))
    chex.assert_trees_all_close(
      grads(streams, kernel), expected(streams, kernel), rtol=1e-4, atol=2e-5
    )


def test_forward_mode_works_without_hand_written_derivatives():
  coefs = random_coefs(jax.random.key(0), 2)
  streams = jnp.ones((2, 3))
  _, tangent = jax.jvp(
    lambda s: hc.read(s, coefs, implementation="autodiff"), (streams,), (streams,)
  )
  chex.assert_trees_all_close(tangent, hc.read(streams, coefs))


def test_float32_contractions_say_so():
  """An accelerator would round the operands of a float32 product to bf16 or TF32."""
  model = hc.HyperConnection(num_streams=4)
  streams = jnp.ones((2, 3, 4, 8))
  variables = model.init(jax.random.key(0), streams)

  def loss(variables):
    h, coefs = model.apply(variables, streams)
    return jnp.sum(model.apply(variables, streams, h, coefs, method="write"))

  dots = [e for e in equations(jax.make_jaxpr(jax.grad(loss))(variables).jaxpr) if is_dot(e)]
  assert len(dots) >= 4
  for eqn in dots:
    assert set(eqn.params["precision"]) == {jax.lax.Precision.HIGHEST}, eqn


def is_dot(eqn):
  return eqn.primitive.name == "dot_general"


def equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for param in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns")):
      inner = getattr(param, "jaxpr", param)
      if hasattr(inner, "eqns"):
        yield from equations(inner)


@pytest.mark.parametrize(
  "call, words",
  [
    (lambda: hc.expand(jnp.ones((2, 10)), 4, 4), "10"),
    (lambda: hc.expand(jnp.ones((2, 10)), 3, 2), "multiple of fractions"),
    (lambda: hc.expand(jnp.ones((2, 10)), 0), "at least 1"),
    (lambda: hc.reduce(jnp.ones((2, 3, 4)), 2), "multiple of fractions"),
    (
      lambda: hc.write(jnp.ones((2, 4, 8)), jnp.ones((2, 7)), random_coefs(jax.random.key(0), 4)),
      "shape of its input",
    ),
    (
      lambda: hc.read(jnp.ones((4, 8)), random_coefs(jax.random.key(0), 4), implementation="xla"),
      "autodiff",
    ),
  ],
)
def test_what_does_not_fit_is_refused(call, words):
  with pytest.raises(ValueError, match=words):
    call()
