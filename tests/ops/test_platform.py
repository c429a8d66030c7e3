"""The forms for GPU and TPU, run on CPU: the same numbers as the CPU's own form."""

import functools
import importlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import ops
from hc_jax.ops import combine
from hc_jax.testing.compiled import jit, normal

project = importlib.import_module("hc_jax.ops.project")  # its function has the same name


@pytest.fixture(params=["gpu", "tpu"])
def platform(request, monkeypatch):
  """Within it every form is that of a platform that is not there."""

  def chosen(*args, default, **forms):
    return (forms.get(request.param) or default)(*args)

  monkeypatch.setattr(combine, "by_platform", chosen)
  monkeypatch.setattr(project, "by_platform", chosen)
  return request.param


# Token axes, v and n; static coefficients.
@pytest.mark.parametrize(
  "lead, v, n, static", [((2, 3), 1, 4, False), ((5,), 3, 3, True), ((2,), 1, 5, False)]
)
def test_read_and_write(platform, monkeypatch, lead, v, n, static):
  shape = () if static else lead
  coefs = hc.Coefs(
    read=normal("read", *shape, v, n),
    write=normal("write", *shape, n, v),
    mix=normal("mix", *shape, n, n),
  )

  def loss(streams, coefs):
    h = hc.read(streams, coefs)
    return jnp.sum(jnp.sin(hc.write(streams, jnp.sin(h), coefs)))

  streams = normal("streams", *lead, n, 6)
  got = jit(jax.value_and_grad(loss, (0, 1)))(streams, coefs)
  monkeypatch.undo()
  want = jit(jax.value_and_grad(loss, (0, 1)))(streams, coefs)
  # Some gradients nearly cancel: rounding, 1e-7 of the summands, is more than 1e-4 of the sum.
  chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(100, 5), (4, 100, 5)], ids=["one stream", "all streams"])
@pytest.mark.parametrize("norm", ops.NORMS)
def test_project(platform, monkeypatch, norm, shape):
  def loss(streams, kernel):
    return jnp.sum(jnp.sin(ops.project(streams, kernel, norm=norm)))

  given = 1 + 3 * normal("streams", 3, 4, 100), normal("kernel", *shape)
  got = jit(jax.value_and_grad(loss, (0, 1)))(*given)
  monkeypatch.undo()
  # On CPU a TPU's one reduction adds its numbers one after the other.
  atol = 3e-5 if platform == "tpu" else 1e-5
  chex.assert_trees_all_close(
    got, jit(jax.value_and_grad(loss, (0, 1)))(*given), rtol=1e-4, atol=atol
  )


@pytest.mark.parametrize("sums, rtol", [(project._sum_each, 1e-6), (combine.sum_together, 3e-6)])
def test_one_pass_over_streams_far_from_zero_loses_nothing(sums, rtol):
  """There E[x^2] - E[x]^2 in float32 is noise; and one feature may be far from all others."""
  streams = 1000 + normal("streams", 3, 4, 256)
  outlier = normal("streams", 3, 4, 256)
  outlier[..., 0] = 1000
  kernel = normal("kernel", 256, 2)
  for x in (streams, outlier):
    _, mean, rstd = jit(
      functools.partial(project._with_sums, norm="layernorm", eps=0.0, sums=sums)
    )(x, kernel)
    x = x.astype(np.float64)
    np.testing.assert_allclose(mean[..., 0], x.mean(-1), rtol=rtol)
    np.testing.assert_allclose(rstd[..., 0], 1 / x.std(-1), rtol=2e-5)


def lowered(function, platform, *args):
  return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def test_the_program_holds_the_form_of_its_platform_alone():
  a = jax.ShapeDtypeStruct((7, 4, 16), jnp.bfloat16)

  def mix_gradient(a, b):
    return combine.outer(a, b, (7, 4, 4))

  assert "dot_general" in lowered(mix_gradient, "tpu", a, a)
  for name, reductions in (("cpu", 1), ("cuda", 4)):
    text = lowered(mix_gradient, name, a, a)
    assert "dot_general" not in text
    assert (
      len(re.findall(r"across dimensions = \[\d\] : \(tensor<7x4?x?16xf32>", text)) == reductions
    )
  weights = jax.ShapeDtypeStruct((4, 4), jnp.float32)
  for name, einsum in (("cpu", False), ("cuda", False), ("tpu", True)):
    assert ("dot_general" in lowered(combine.combine, name, weights, a)) == einsum


def test_a_tpu_sums_all_that_the_coefficients_take_of_the_streams_at_once():
  streams = jax.ShapeDtypeStruct((7, 4, 256), jnp.bfloat16)
  kernel = jax.ShapeDtypeStruct((256, 6), jnp.float32)
  eight = r"tensor<7x4x256xf32>(, tensor<f32>)?, " * 7 + r"tensor<7x4x256xf32>"
  for name, found in (("tpu", 1), ("cuda", 0)):
    assert len(re.findall(eight, lowered(ops.project, name, streams, kernel))) == found


def test_written_streams_are_stored_in_their_own_dtype():
  coefs = hc.Coefs(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 4), (4, 1), (4, 4))))
  streams, y = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((7, 4, 16), (7, 16)))
  text = lowered(hc.write, "cuda", streams, y, coefs)
  barrier = next(line for line in text.splitlines() if "optimization_barrier" in line)
  assert "7x4x16xbf16" in barrier


@pytest.mark.slow
@pytest.mark.parametrize("connection", [hc.HyperConnection(), hc.MHC()])
def test_a_gradient_is_exported_for_several_platforms(connection):
  streams = normal("streams", 2, 3, 4, 8)
  variables = connection.init(jax.random.key(0), streams, 0)

  @jax.jit
  def gradient(variables, streams):
    loss = lambda v: jnp.sum(jnp.sin(connection.apply(v, streams, 0)[0]))  # noqa: E731
    return jax.grad(loss)(variables)

  exported = jax.export.export(gradient, platforms=("cpu", "cuda", "tpu"))(variables, streams)
  assert exported.platforms == ("cpu", "cuda", "tpu")
  found, want = exported.call(variables, streams), gradient(variables, streams)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, want)
