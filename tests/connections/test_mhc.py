"""mHC: orientation, DeepSeek-V4's form, and what it becomes at its limits."""

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.reference import gated as reference_gated
from hc_jax.testing.traps.subject import distance

KEY = jax.random.key(0)
Z = np.float32([[2 * np.sin(4 * i + j) for j in range(4)] for i in range(4)])


def parameters(connection, streams, **values):
  """Returns kicked parameters, some with set values; biases broadcast."""
  shapes = nn.unbox(jax.eval_shape(connection.init, KEY, streams, 0))["params"]
  return {
    name: np.broadcast_to(np.float32(values.get(name, 0.4 * normal(name, *a.shape))), a.shape)
    for name, a in shapes.items()
  }


def apply(connection, params, streams, index=0):
  return jit(lambda p: connection.apply({"params": p}, streams, index))(params)


def test_the_golden_logits_of_the_paper_come_out_as_they_stand():
  """Row i of the logits is row i of the mix, which carries stream j into stream i."""
  connection, streams = hc.MHC(), normal("streams", 2, 4, 8)
  params = parameters(connection, streams, mix_bias=Z.reshape(-1), mix_scale=0.0)
  mix = np.asarray(apply(connection, params, streams)[1].mix)
  np.testing.assert_allclose(mix[0, 2], [0.762870, 0.210839, 0.019695, 0.006596], atol=1e-6)
  np.testing.assert_allclose(
    mix, np.broadcast_to(reference_gated.sinkhorn(Z), mix.shape), atol=1e-6
  )
  np.testing.assert_allclose(mix.sum(-1), np.ones((2, 4)), atol=5e-7)


def test_deepseek_v4_is_its_code():
  """One site of the shipped code, in its own layout: fn [n^2 + 2n, nC], base, scale, comb[j, k]."""
  n, w, eps = 4, 8, 1e-6
  connection = hc.MHC(form="deepseek_v4")
  streams, y = normal("streams", 3, n, w), normal("y", 3, w)
  params = parameters(connection, streams)
  h, coefs = apply(connection, params, streams)
  out = connection.apply({"params": params}, streams, y, coefs, method="write")

  # comb is the transpose of mix, so its rows of fn and base are too.
  order = np.arange(n * n).reshape(n, n).T.reshape(-1)
  p = {name: value.astype(np.float64) for name, value in params.items()}
  kernels = [p["read_kernel"], p["write_kernel"], p["mix_kernel"][..., order]]
  fn = np.concatenate([k.reshape(n * w, -1).T for k in kernels])
  base = np.concatenate([p["read_bias"], p["write_bias"], p["mix_bias"][order]])
  s0, s1, s2 = (p[f"{name}_scale"][0] for name in ("read", "write", "mix"))
  x = streams.reshape(3, -1).astype(np.float64)
  mixes = (x @ fn.T) / np.sqrt(np.mean(x * x, -1, keepdims=True) + 1e-6)
  pre = reference_gated.sigmoid(mixes[:, :n] * s0 + base[:n]) + eps
  post = 2 * reference_gated.sigmoid(mixes[:, n : 2 * n] * s1 + base[n : 2 * n])
  comb = reference_gated.comb((mixes[:, 2 * n :] * s2 + base[2 * n :]).reshape(3, n, n))
  assert distance(h, np.einsum("ti,tic->tc", pre, streams)) < 2e-6
  mixed = np.einsum("tjk,tjc->tkc", comb, streams)
  assert distance(out, post[..., None] * y[:, None] + mixed) < 2e-6
  # The eps are heard, and the paper's form is near.
  plain = apply(hc.MHC(), params, streams)[1]
  assert 2e-7 < np.abs(np.asarray(plain.read - coefs.read)).max() < 2e-6
  assert 1e-7 < distance(plain.mix, np.asarray(coefs.mix)) < 1e-4


def test_logits_far_from_the_diagonal_are_identity_hc():
  streams = normal("streams", 2, 3, 4, 8)
  params = parameters(hc.MHC(), streams, mix_bias=60 * (np.eye(4) - 1).reshape(-1))
  h, coefs = apply(hc.MHC(), params, streams)
  gates = {name: value for name, value in params.items() if not name.startswith("mix")}
  h_identity, identity = apply(hc.IdentityHC(), gates, streams)
  assert identity.mix is None
  np.testing.assert_allclose(coefs.mix, np.broadcast_to(np.eye(4), (2, 3, 4, 4)), atol=1e-12)
  chex.assert_trees_all_close(
    (h, coefs.read, coefs.write), (h_identity, identity.read, identity.write), atol=1e-6
  )


def test_identity_starts_near_the_identity_for_many_sites():
  connection, streams = hc.MHC(kernel_init_std=0.0), normal("streams", 4, 8)
  (_, coefs), _ = jit(lambda: connection.init_with_output(KEY, streams, 0))()
  mix = np.asarray(coefs.mix, np.float64)
  np.testing.assert_allclose(mix, 0.998995 * np.eye(4) + 0.000335 * (1 - np.eye(4)), atol=1e-6)
  assert np.linalg.norm(mix - np.eye(4), 2) == pytest.approx(1.34e-3, rel=1e-2)
  after = np.linalg.svd(np.linalg.matrix_power(mix, 64), compute_uv=False)
  np.testing.assert_allclose(after, [1, 0.918, 0.918, 0.918], atol=1e-3)


def test_the_two_gradients_agree_where_sinkhorn_has_converged():
  streams, weights = normal("streams", 2, 3, 4, 8), normal("weights", 2, 3, 4, 4)
  params = parameters(hc.MHC(), streams)

  def gradient(kind):
    connection = hc.MHC(sinkhorn_gradient=kind, sinkhorn_steps=60)
    loss = lambda p: (weights * connection.apply({"params": p}, streams, 0)[1].mix).sum()  # noqa: E731
    return {k: v for k, v in jit(jax.grad(loss))(params).items() if k.startswith("mix")}

  exact = gradient("exact")
  assert distance(gradient("implicit"), exact) < 1e-5
  assert all(np.linalg.norm(g) > 1e-3 for g in exact.values())


def test_options_are_heard():
  streams = normal("streams", 2, 3, 4, 8)
  params = parameters(hc.MHC(), streams)
  mix = np.asarray(apply(hc.MHC(), params, streams)[1].mix)
  for fields in ({"sinkhorn_steps": 2}, {"norm_eps": 0.3}):
    other = apply(hc.MHC(**fields), params, streams)[1].mix
    assert distance(other, mix) > 1e-3, fields


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"form": "v4"}, "paper, deepseek_v4"),
    ({"sinkhorn_steps": 0}, "sinkhorn_steps=0 must be at least 1"),
    ({"sinkhorn_gradient": "none"}, "exact, implicit"),
  ],
)
def test_what_does_not_fit_is_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    hc.MHC(**fields).check()
