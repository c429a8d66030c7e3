"""Tests of FLOPs counted in jaxprs, against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from hc_jax.plan import count_flops

A, B = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)


def test_products_arithmetic_and_reductions():
  assert count_flops(lambda a, b: a @ b, A, B) == 2 * 3 * 5 * 7
  assert count_flops(lambda a: jnp.sum(jnp.tanh(a) * 2.0), A) == 3 * 15
  moved = lambda a: jnp.concatenate([a.T.reshape(3, 5), a]).astype(jnp.bfloat16)  # noqa: E731
  assert count_flops(moved, A) == 0
  batched = lambda x, y: jnp.einsum("bij,bjk->bik", x, y)  # noqa: E731
  assert count_flops(batched, np.ones((4, 3, 5)), np.ones((4, 5, 7))) == 4 * 2 * 3 * 5 * 7


def test_convolutions_and_reductions_of_several_operands():
  image, kernel = np.ones((2, 9, 6), np.float32), np.ones((3, 6, 4), np.float32)
  convolved = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
    x, k, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
  )
  assert count_flops(convolved, image, kernel) == 2 * (2 * 7 * 4) * (3 * 6)
  add = lambda a, b: (a[0] + b[0], a[1] + b[1])  # noqa: E731
  both = lambda a: jax.lax.reduce((a, a), (np.float32(0), np.float32(0)), add, (0, 1))  # noqa: E731
  assert count_flops(both, A) == 2 * 15


def test_loops_count_as_often_as_they_run():
  def scanned(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, length=6)[0]

  def nested(x, w):
    return jax.lax.fori_loop(0, 4, lambda _, x: jax.jit(scanned)(x, w), x)

  x, w = np.ones((2, 5), np.float32), np.ones((5, 5), np.float32)
  assert count_flops(scanned, x, w) == 6 * 2 * 2 * 5 * 5
  assert count_flops(nested, x, w) == 4 * 6 * 2 * 2 * 5 * 5


def test_a_choice_counts_as_its_dearer_branch_and_an_open_loop_once():
  branches = (lambda x: x, lambda x: jnp.tanh(x) * 2.0)
  for first, second in (branches, branches[::-1]):
    chosen = lambda p, x, a=first, b=second: jax.lax.cond(p, a, b, x)  # noqa: E731
    assert count_flops(chosen, True, A) == 2 * 15
  open_ended = lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x + 1.0, x)  # noqa: E731
  assert count_flops(open_ended, A) == 15


def test_what_is_computed_again_is_counted_again():
  def loss(w, x):
    return jnp.sum(jnp.sin(x @ w))

  def twice(w, x):
    return jnp.sum(jax.checkpoint(lambda w: jnp.sin(x @ w))(w))

  product = 2 * 3 * 5 * 7
  plain = count_flops(jax.grad(loss), B, A)
  assert 2 * product < plain < 3 * product  # forward, and the gradient of one operand
  assert count_flops(jax.grad(twice), B, A) >= plain + product
