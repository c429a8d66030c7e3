"""Orientation by hand, shapes and dtypes, and derivatives that equal autodiff's."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import ops
from hc_jax.testing.compiled import jit, normal


def random_coefs(n, v=1, lead=(), with_mix=True):
  return hc.Coefs(
    read=normal("read", *lead, v, n),
    write=normal("write", *lead, n, v),
    mix=normal("mix", *lead, n, n) if with_mix else None,
  )


read, write = jit(hc.read, static_argnums=2), jit(hc.write)


def test_read_and_write_by_hand():
  """Two streams of width two, every number different: a transposed map cannot pass."""
  streams = np.float32([[1.0, 0.0], [0.0, 10.0]])
  coefs = hc.Coefs(
    read=np.float32([[2.0, 3.0]]),
    write=np.float32([[5.0], [7.0]]),
    mix=np.float32([[1.0, 2.0], [0.0, 4.0]]),  # stream 1 goes into stream 0, not the reverse
  )
  np.testing.assert_array_equal(read(streams, coefs), [2.0, 30.0])
  np.testing.assert_array_equal(
    write(streams, np.float32([1.0, 1.0]), coefs), [[1 + 5, 20 + 5], [7, 40 + 7]]
  )


def test_read_and_write_of_two_slots_by_hand():
  streams = np.float32([[1.0], [10.0], [100.0]])
  coefs = hc.Coefs(
    read=np.float32([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    write=np.float32([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]]),
    mix=None,
  )
  np.testing.assert_array_equal(read(streams, coefs), [321.0, 654.0])
  np.testing.assert_array_equal(
    write(streams, np.float32([7.0, 9.0]), coefs), [[8.0], [19.0], [100.0 + 14 + 27]]
  )


def test_as_matrix_is_the_papers():
  coefs = hc.Coefs(
    read=np.float32([[2.0, 3.0]]),
    write=np.float32([[5.0], [7.0]]),
    mix=np.float32([[1.0, 8], [9, 4]]),
  )
  np.testing.assert_array_equal(coefs.as_matrix(), [[0, 5, 7], [2, 1, 9], [3, 8, 4]])


@pytest.mark.parametrize(
  "lead, n, m", [((), 1, 1), ((3,), 4, 1), ((2, 5), 4, 2), ((2, 3, 4), 3, 3)]
)
def test_expand_then_reduce_multiplies_by_the_copies(lead, n, m):
  x = normal("x", *lead, 12)
  streams = jit(lambda x: hc.expand(x, n, m))(x)
  chex.assert_shape(streams, (*lead, n, 12 // m))
  np.testing.assert_allclose(jit(lambda s: hc.reduce(s, m))(streams), x * (n // m), rtol=1e-6)
  for j in range(n):
    fraction = x.reshape(*lead, m, 12 // m)[..., j % m, :]
    np.testing.assert_array_equal(streams[..., j, :], fraction)


@pytest.mark.parametrize("stream_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_shapes_and_dtypes(stream_dtype, dtype):
  coefs = random_coefs(4, lead=(2, 5))
  streams = jax.ShapeDtypeStruct((2, 5, 4, 6), stream_dtype)
  h = jax.eval_shape(lambda s: hc.read(s, coefs, dtype), streams)
  chex.assert_shape(h, (2, 5, 6))
  chex.assert_type(h, dtype or stream_dtype)
  out = jax.eval_shape(hc.write, streams, h, coefs)
  chex.assert_equal_shape([out, streams])
  chex.assert_type(out, stream_dtype)
  chex.assert_type(jax.eval_shape(hc.reduce, streams), jnp.float32)


def test_bfloat16_streams_are_rounded_once():
  """Accumulation is float32: the result is the float32 result of the same operands, rounded."""
  coefs = random_coefs(8, lead=(64,))
  streams = normal("streams", 64, 8, 16).astype(jnp.bfloat16)
  y = normal("y", 64, 16).astype(jnp.bfloat16)
  exact = np.asarray(write(streams.astype(np.float32), y.astype(np.float32), coefs))
  np.testing.assert_array_equal(write(streams, y, coefs), exact.astype(jnp.bfloat16))
  exact = np.asarray(read(streams.astype(np.float32), coefs))
  np.testing.assert_array_equal(read(streams, coefs), exact.astype(jnp.bfloat16))


# Token axes, n, v, with a mix, with static coefficients: every pair of the last two, twice.
CASES = [
  ((), 4, 1, True, True),
  ((), 1, 1, False, True),
  ((7,), 3, 1, True, False),
  ((2, 5), 4, 1, True, True),
  ((2, 5), 8, 2, False, False),
  ((2, 1, 3), 2, 2, True, False),
  ((2, 5), 2, 2, False, True),
]


@pytest.mark.parametrize("lead, n, v, with_mix, static", CASES)
def test_derivatives_are_autodiffs(lead, n, v, with_mix, static):
  """A loss on everything: outputs, coefficients used again, streams used twice."""
  coefs = random_coefs(n, v, () if static else lead, with_mix)
  streams = normal("streams", *lead, n, 6)

  def loss(streams, coefs, derivatives):
    h = hc.read(streams, coefs, derivatives=derivatives)
    out = hc.write(streams, jnp.sin(h), coefs, derivatives=derivatives)
    extra = jnp.sum(jnp.square(coefs.read)) + jnp.sum(jnp.cos(streams))
    return jnp.sum(jnp.sin(out)) + extra

  @jit
  def grads(streams, coefs):
    return [jax.grad(loss, (0, 1))(streams, coefs, i) for i in ops.DERIVATIVES]

  auto, autodiff = grads(streams, coefs)
  chex.assert_trees_all_close(auto, autodiff, rtol=1e-5, atol=1e-5)


# Token axes, n, w, norm, affine.
PROJECTIONS = [
  ((), 1, 5, "layernorm", True),
  ((3,), 4, 7, "layernorm", False),
  ((2, 5), 2, 16, "rmsnorm", True),
  ((3,), 2, 6, "rmsnorm", False),
]


@pytest.mark.parametrize("lead, n, w, norm, affine", PROJECTIONS)
def test_project_is_norm_then_product(lead, n, w, norm, affine):
  streams, kernel = 3 * normal("streams", *lead, n, w) + 1, normal("kernel", w, 3)
  scale = normal("scale", w) if affine else None
  bias = normal("bias", w) if affine and norm == "layernorm" else None

  def plain(streams, kernel):
    x = streams - jnp.mean(streams, -1, keepdims=True) if norm == "layernorm" else streams
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)
    x = x * (1.0 if scale is None else scale.reshape((1,) * (x.ndim - 1) + (w,)))
    x = x + (0.0 if bias is None else bias.reshape((1,) * (x.ndim - 1) + (w,)))
    return x @ kernel

  def folded(derivatives, streams, kernel):
    return ops.project(streams, kernel, norm=norm, scale=scale, bias=bias, derivatives=derivatives)

  @jit
  def values_and_grads(*operands):
    forms = [plain, *(functools.partial(folded, i) for i in ops.DERIVATIVES)]
    grads = [jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), (0, 1)) for f in forms]
    return [(f(*operands), grad(*operands)) for f, grad in zip(forms, grads, strict=True)]

  expected, *found = values_and_grads(streams, kernel)
  for one in found:
    chex.assert_trees_all_close(one, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("derivatives", ops.DERIVATIVES)
@pytest.mark.parametrize("over_all", [False, True], ids=["stream", "all"])
def test_without_eps_zeros_stay_zero(over_all, derivatives):
  """The norm is x / max(|x|, 1e-12), as in torch.nn.functional.normalize, also its derivative."""
  n, w, axes = 2, 128, (-2, -1) if over_all else (-1,)
  streams = normal("streams", 4, n, w)
  streams[0], streams[1, 1], streams[2], streams[3] = 0, 0, streams[2] * 1e-16, streams[3] * 1e-13
  kernel = normal("kernel", n, w, 3) if over_all else normal("kernel", w, 3)
  weights = normal("out", 4, 3) if over_all else normal("out", 4, n, 3)

  def loss(streams, kernel, norm):
    out = ops.project(streams, kernel, norm=norm, eps=0.0, derivatives=derivatives)
    return jnp.sum(out * weights), out

  @jit
  def run(*operands):
    return [
      jax.value_and_grad(functools.partial(loss, norm=k), (0, 1), True)(*operands)
      for k in ops.NORMS
    ]

  centred, ((_, out), (d_streams, d_kernel)) = run(streams, kernel)
  assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves((centred, out, d_streams, d_kernel)))
  assert not np.any(centred[0][1][0]) and not np.any(centred[1][0][0])

  x = streams.astype(np.float64)
  root = kernel[..., 0].size ** 0.5
  length = np.sqrt(np.sum(x**2, axes, keepdims=True))
  normed = root * x / np.maximum(length, 1e-12)
  contract = "...nw,nwk->...k" if over_all else "...w,wk->...k"
  np.testing.assert_allclose(out, np.einsum(contract, normed, kernel), rtol=1e-5, atol=1e-4)
  spread = root * np.einsum("...k,nwk->...nw" if over_all else "...k,wk->...w", weights, kernel)
  unit = np.where(length > 1e-12, x / np.maximum(length, 1e-12), 0)
  want = (spread - np.sum(spread * unit, axes, keepdims=True) * unit) / np.maximum(length, 1e-12)
  for token in np.ndindex(4, n):  # 1e12 of one would hide what is wrong with the others
    np.testing.assert_allclose(
      d_streams[token], want[token], rtol=1e-4, atol=1e-5 * np.max(np.abs(want[token]))
    )


def test_an_eps_adds_no_selection():
  """The floor is for what has no eps: with one, the program stays what it was."""
  streams, kernel = np.ones((2, 3, 8), np.float32), np.ones((8, 3), np.float32)

  def selects(eps):
    grad = jax.grad(lambda s: jnp.sum(ops.project(s, kernel, norm="rmsnorm", eps=eps)))
    return "select_n" in str(jax.make_jaxpr(grad)(streams))

  assert selects(0.0) and not selects(1e-24)


def test_forward_mode_works_without_hand_written_derivatives():
  coefs, streams = random_coefs(2), np.ones((2, 3), np.float32)

  @jit
  def tangent(s):
    return jax.jvp(lambda s: hc.read(s, coefs, derivatives="autodiff"), (s,), (s,))[1]

  np.testing.assert_allclose(tangent(streams), read(streams, coefs), rtol=1e-6)


def test_float32_contractions_say_so():
  """An accelerator would round the operands of a float32 product to bf16 or TF32."""
  model = hc.HyperConnection(num_streams=4)
  streams = np.ones((2, 3, 4, 8), np.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), streams, 0)

  def loss(variables):
    h, coefs = model.apply(variables, streams, 0)
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


def ones(shape):
  return np.ones(shape, np.float32)


@pytest.mark.parametrize(
  "call, words",
  [
    (lambda: hc.expand(ones((2, 10)), 4, 4), "10"),
    (lambda: hc.expand(ones((2, 10)), 1, 2), "at most num_streams"),
    (lambda: hc.expand(ones((2, 10)), 0), "at least 1"),
    (lambda: hc.reduce(ones((2, 3, 4)), 4), "at most num_streams"),
    (
      lambda: hc.write(ones((2, 4, 8)), ones((2, 7)), random_coefs(4)),
      "shape of its input",
    ),
    (
      lambda: hc.read(ones((4, 8)), random_coefs(4), derivatives="xla"),
      "autodiff",
    ),
  ],
)
def test_what_does_not_fit_is_refused(call, words):
  with pytest.raises(ValueError, match=words):
    call()


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
def test_a_branch_output_that_is_no_floating_point_is_refused(dtype):
  streams = jnp.ones((3, 2, 4), jnp.bfloat16)
  coefs = hc.Coefs(read=jnp.ones((1, 2)), write=jnp.ones((2, 1)), mix=None)
  with pytest.raises(
    ValueError, match=rf"the branch output is {jnp.dtype(dtype)}, and .* bfloat16"
  ):
    hc.write(streams, jnp.ones((3, 4), dtype), coefs)
  for fitting in (jnp.float32, jnp.float16, jnp.bfloat16):
    assert hc.write(streams, jnp.ones((3, 4), fitting), coefs).dtype == jnp.bfloat16


@pytest.mark.parametrize("have, made_for", [(2, 4), (4, 2), (3, 1), (1, 3)])
def test_coefs_of_another_number_of_streams_are_refused(have, made_for):
  streams, y = ones((2, 5, have, 6)), ones((2, 5, 6))
  coefs = random_coefs(made_for)
  words = rf"coefs\.{{}} .* of {made_for} streams, but streams \(2, 5, {have}, 6\) are {have}"
  with pytest.raises(ValueError, match="read: " + words.format("read")):
    hc.read(streams, coefs)
  with pytest.raises(ValueError, match="write: " + words.format("write")):
    hc.write(streams, y, coefs)
  fitting = random_coefs(have)
  with pytest.raises(ValueError, match="write: " + words.format("mix")):
    hc.write(streams, y, fitting.replace(mix=coefs.mix))
  with pytest.raises(ValueError, match="write: " + words.format("mix")):
    hc.write(streams, y, fitting.replace(mix=ones((made_for, have))))


@pytest.mark.parametrize("lead", [(3, 5), (2, 4), (7, 2, 5), (5, 2), (1, 1, 1)])
def test_coefs_of_other_tokens_are_refused(lead):
  """Otherwise coefficients of three rows would make three rows from streams of one row."""
  for tokens in ((2, 5), (1, 5)) if lead != (1, 1, 1) else ((2, 5),):
    streams, y = ones((*tokens, 4, 6)), ones((*tokens, 6))
    coefs, fitting = random_coefs(4, lead=lead), random_coefs(4, lead=tokens)
    with pytest.raises(ValueError, match=r"read: coefs\.read .* of tokens"):
      hc.read(streams, coefs)
    with pytest.raises(ValueError, match=r"write: coefs\.write .* of tokens"):
      hc.write(streams, y, coefs)
    with pytest.raises(ValueError, match=r"write: coefs\.mix .* of tokens"):
      hc.write(streams, y, fitting.replace(mix=coefs.mix))


def test_coefs_of_fewer_axes_or_one_token_serve_all():
  streams, y = ones((2, 5, 4, 6)), ones((2, 5, 6))
  for lead in ((), (5,), (1, 5), (2, 1), (2, 5)):
    coefs = random_coefs(4, lead=lead)
    chex.assert_shape(hc.read(streams, coefs), (2, 5, 6))
    chex.assert_shape(hc.write(streams, y, coefs), streams.shape)


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.complex64])
def test_what_is_no_floating_point_is_refused(dtype):
  x = np.ones((3, 8), dtype)
  name = np.dtype(dtype).name
  with pytest.raises(ValueError, match=rf"expand: x is {name}.* embed .*astype\(jnp.float32\)"):
    hc.expand(x, 4)
  streams, coefs = np.ones((3, 4, 8), dtype), random_coefs(4)
  with pytest.raises(ValueError, match=rf"read: streams are {name}.*astype\(jnp.float32\)"):
    hc.read(streams, coefs)
  with pytest.raises(ValueError, match=rf"write: streams are {name}.*astype\(jnp.float32\)"):
    hc.write(streams, ones((3, 8)), coefs)


def test_streams_without_an_axis_of_streams_are_refused():
  with pytest.raises(ValueError, match=r"read: streams are \(4,\), not \[\.\.\., n, w\]"):
    hc.read(ones(4), random_coefs(4))
