"""Frac-Connections, generalised hyper-connections and AltUp: what makes them more than HC."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.axes import unboxed
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.traps.subject import distance

D, LEAD = 12, (2, 5)
X = normal("x", *LEAD, D)


def streams_of(connection, x=X):
  return hc.expand(x, connection.num_streams, connection.fractions)


def kicked(connection, index=1):
  """Parameters of one site away from their initial values."""
  tree = unboxed(connection.init(jax.random.key(0), streams_of(connection), index)["params"])
  return {k: np.asarray(a) + 0.3 * normal(k, *a.shape) for k, a in tree.items()}


def run(connection, params, streams, index=1, branch=np.sin):
  """(branch input, coefs, next streams)."""
  variables = {"params": params}
  h, coefs = connection.apply(variables, streams, index)
  return h, coefs, connection.apply(variables, streams, branch(h), coefs, method="write")


def total_params(connection, sites):
  shape = (1, connection.num_streams, 2048 // connection.fractions)
  tree = jax.eval_shape(
    connection.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, "float32"), 0
  )
  return sites * hc.param_count(tree["params"]).total


@pytest.mark.parametrize(
  "connection, sites, wanted",
  [
    (hc.FracConnection(dynamic=False), 32, 1_152),  # family of OLMo-1B: d = 2048, 16 layers
    (hc.FracConnection(norm="rmsnorm", norm_params=True), 32, 165_056),
    (hc.FracConnection(), 32, 148_672),
    (hc.GeneralizedHyperConnection(dynamic=False), 1, 21),  # (m, n) = (2, 3)
    (hc.GeneralizedHyperConnection(), 1, 21 + 7_168 + 21),
    (hc.AltUp(num_streams=3), 1, 12),
  ],
)
def test_counts_are_those_of_the_papers(connection, sites, wanted):
  assert total_params(connection, sites) == wanted


@pytest.mark.parametrize("fractions, copies", [(2, 1), (4, 1), (3, 2)])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.slow
def test_frac_starts_as_the_residual_bit_by_bit(fractions, copies, dynamic):
  connection = hc.FracConnection(
    fractions=fractions, num_streams=fractions * copies, dynamic=dynamic
  )
  streams = streams_of(connection)
  for index in range(3):
    params = unboxed(connection.init(jax.random.key(0), streams, index))["params"]
    h, _, out = run(connection, params, streams, index, branch=lambda h: jnp.sin(h))
    np.testing.assert_array_equal(h, X)
    np.testing.assert_array_equal(out, streams_of(connection, X + np.asarray(jnp.sin(X))))


def test_frac_has_as_many_streams_as_fractions_unless_told():
  assert hc.FracConnection(fractions=2).num_streams == 2
  assert hc.FracConnection(fractions=2).clone(fractions=2).num_streams == 2
  with pytest.raises(ValueError, match=r"not a multiple of fractions=2.*GeneralizedHyper"):
    hc.FracConnection(fractions=2, num_streams=3).check()
  with pytest.raises(ValueError, match="FracConnection cuts the width"):
    hc.HyperConnection(fractions=2).check()


def test_frac_writes_each_fraction_to_itself_alone():
  connection = hc.FracConnection(fractions=3)
  write = run(connection, kicked(connection), streams_of(connection))[1].write
  assert np.all(np.asarray(write)[..., ~np.eye(3, dtype=bool)] == 0)
  assert np.abs(np.asarray(write)[..., np.eye(3, dtype=bool)]).min() > 0


@pytest.mark.parametrize("dynamic", [True, False])
def test_frac_of_one_fraction_is_hc_of_one_stream(dynamic):
  frac = hc.FracConnection(fractions=1, dynamic=dynamic)
  whole = hc.HyperConnection(num_streams=1, dynamic=dynamic)
  params = kicked(whole)
  for a, b in zip(
    jax.tree.leaves(run(frac, params, X[..., None, :])),
    jax.tree.leaves(run(whole, params, X[..., None, :])),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def as_ghc(params, n, m, w, **columns):
  """Parameters of GHC that compute what those of HC or Frac do.

  Its tanh sees the projection divided by sqrt(w); its scales are matrices.
  """
  pattern = np.float32(np.arange(n)[:, None] % m == np.arange(m)[None])
  write = params["static_write"] * pattern
  kernel, scale = params["dynamic_kernel"], params["dynamic_scale"]
  kernel = np.concatenate([kernel[:, : m + n], np.repeat(kernel[:, m + n :], m, axis=1)], axis=1)
  return {
    "static_read": params["static_read"],
    "static_mix": params["static_mix"],
    "static_write": write,
    "dynamic_kernel": kernel * np.float32(np.sqrt(w)),
    "read_scale": np.full((m, n), scale[0]),
    "mix_scale": np.full((n, n), scale[0]),
    "write_scale": scale[1] * pattern,
  }


@pytest.mark.slow
def test_ghc_with_one_fraction_is_hc_and_with_a_diagonal_write_is_frac():
  norm = {"norm": "rmsnorm", "norm_eps": 1e-5}
  for special, m in (
    (hc.HyperConnection(num_streams=3, **norm), 1),
    (hc.FracConnection(**norm), 4),
  ):
    n = special.num_streams
    general = hc.GeneralizedHyperConnection(num_streams=n, fractions=m, norm_eps=1e-5)
    params, streams = kicked(special), normal("streams", *LEAD, n, D // m)
    want = run(special, params, streams)
    found = run(general, as_ghc(params, n, m, D // m), streams)
    assert distance(found, want) < 1e-6
    other = dict(params, static_mix=params["static_mix"].T)
    assert distance(run(general, as_ghc(other, n, m, D // m), streams), want) > 1e-3


@pytest.mark.parametrize("n, m", [(3, 2), (4, 2), (5, 3), (3, 3)])
def test_ghc_starts_by_reading_a_copy_of_each_fraction(n, m):
  connection = hc.GeneralizedHyperConnection(num_streams=n, fractions=m, dynamic=False)
  for index in range(4):
    streams = normal("streams", *LEAD, n, D // m)
    params = unboxed(connection.init(jax.random.key(0), streams, index))["params"]
    first = m * (index % (n // m)) if n % m == 0 else 0
    wanted = np.eye(n)[first : first + m]
    np.testing.assert_array_equal(params["static_read"], wanted)
    np.testing.assert_array_equal(params["static_mix"], np.eye(n))
    np.testing.assert_array_equal(
      params["static_write"], np.arange(n)[:, None] % m == np.arange(m)[None]
    )


def test_ghc_starts_as_the_residual_also_where_m_does_not_divide_n():
  connection = hc.GeneralizedHyperConnection(num_streams=5, fractions=2)
  streams, want = streams_of(connection), X
  for index in range(4):
    params = unboxed(connection.init(jax.random.key(0), streams, index))["params"]
    streams = run(connection, params, streams, index)[2]
    want = want + np.sin(want)
  found = hc.reduce(streams, 2)
  np.testing.assert_allclose(found, 5 / 2 * want, rtol=1e-5)


def test_altup_predicts_computes_and_corrects():
  connection = hc.AltUp(num_streams=3)
  params, streams = kicked(connection), normal("streams", *LEAD, 3, D)
  P, g = params["static_predict"], params["static_gate"][:, 0]
  for index in range(4):
    j = index % 3
    predicted = np.einsum("ij,...jw->...iw", P, streams)
    computed = streams[..., j, :] + np.sin(streams[..., j, :])  # the layer has its own residual
    gap = (computed - predicted[..., j, :])[..., None, :]
    wanted = predicted + g[:, None] * gap
    h, _, out = run(connection, params, streams, index)
    np.testing.assert_array_equal(h, streams[..., j, :])
    assert distance(out, wanted) < 1e-6


@pytest.mark.slow
def test_views_read_with_weights_of_their_own():
  for connection in (
    hc.HyperConnection(num_streams=4, num_views=3),
    hc.FracConnection(fractions=2, num_views=3),
    hc.GeneralizedHyperConnection(num_views=3),
    hc.AltUp(num_views=3),
  ):
    streams = streams_of(connection)
    params = unboxed(connection.init(jax.random.key(0), streams, 1))["params"]
    h, coefs = connection.apply({"params": params}, streams, 1)
    assert h.shape == (*LEAD, 3, D) and coefs.write.shape[-1] == connection.fractions
    np.testing.assert_array_equal(h, np.repeat(X[..., None, :], 3, axis=-2))
    if "static_read" in params:  # AltUp has no weights to read with
      rows = connection.fractions
      params["static_read"] = np.array(params["static_read"])
      params["static_read"][rows : 2 * rows] *= 2
      h, _ = connection.apply({"params": params}, streams, 1)
      np.testing.assert_array_equal(h, np.stack([X, 2 * X, X], axis=-2))


@pytest.mark.parametrize("cls", [hc.FracConnection, hc.GeneralizedHyperConnection])
@pytest.mark.parametrize("held", [("read_mix",), ("write",), ("read_mix", "write")])
@pytest.mark.slow
def test_what_is_said_to_be_frozen_is_what_gets_no_gradient(cls, held):
  connection = cls(norm_params=True, **{f"train_{name}": False for name in held})
  streams = normal("streams", connection.num_streams, D // connection.fractions)

  def loss(params):
    h, coefs, out = run(connection, params, streams, branch=jnp.sin)
    return jnp.sum(out**2) + sum(jnp.sum(a**3) for a in jax.tree.leaves(coefs)) + jnp.sum(h)

  gradients = jit(jax.grad(loss))(kicked(connection))
  still = {name for name, gradient in gradients.items() if not np.any(gradient)}
  assert still == connection.frozen() & set(gradients) != set()
