"""Hyper-connections: Eq. 14 at initialisation, rows and columns of the dynamic part, counts."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.connections import connection_factory

KEY = jax.random.key(0)
STREAMS = (2, 3)


def init(connection, index=0, w=8):
  streams = jax.random.normal(jax.random.key(1), (*STREAMS, connection.num_streams, w))
  return streams, connection.init(KEY, streams, index)


def kick(variables, seed=2):
  """Adds noise to every parameter: at init true gradients are zero and prove nothing."""
  leaves, tree = jax.tree.flatten(variables)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return tree.unflatten(
    [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
  )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_starts_as_equation_14(n, dynamic):
  for index in range(2 * n + 1):
    connection = hc.HyperConnection(num_streams=n, dynamic=dynamic)
    streams, variables = init(connection, index)
    h, coefs = connection.apply(variables, streams, index)
    lead = STREAMS if dynamic else ()
    chex.assert_trees_all_equal(
      coefs,
      hc.Coefs(
        read=jnp.broadcast_to(jnp.eye(n)[index % n][None], (*lead, 1, n)),
        write=jnp.ones((*lead, n, 1)),
        mix=jnp.broadcast_to(jnp.eye(n), (*lead, n, n)),
      ),
    )
    np.testing.assert_array_equal(h, streams[..., index % n, :])


def test_index_may_be_traced():
  connection = hc.HyperConnection(num_streams=4, dynamic=False)
  streams = jnp.ones((4, 8))
  reads = jax.jit(
    jax.vmap(lambda i: nn.unbox(connection.init(KEY, streams, i))["params"]["static_read"])
  )
  np.testing.assert_array_equal(reads(jnp.arange(6))[:, 0].argmax(-1), [0, 1, 2, 3, 0, 1])


def test_dynamic_part_by_hand():
  """Two streams of width two, rmsnorm with eps 0: row j of the projection belongs to stream j."""
  connection = hc.HyperConnection(num_streams=2, tanh=False, norm="rmsnorm", norm_eps=0.0)
  streams = jnp.array([[1.0, 1.0], [2.0, -2.0]])  # normed: [1, 1] and [1, -1]
  params = {
    "static_read": jnp.array([[0.5, 0.25]]),
    "static_mix": jnp.zeros((2, 2)),
    "static_write": jnp.array([[1.0], [2.0]]),
    "dynamic_kernel": jnp.array([[1.0, 2, 3, 4], [10.0, 20, 30, 40]]),  # read | mix | write
    "dynamic_scale": jnp.array([1.0, 100.0]),
  }
  _, coefs = connection.apply({"params": params}, streams)
  # stream 0 gives 11 | 22 33 | 44, stream 1 gives -9 | -18 -27 | -36
  np.testing.assert_allclose(coefs.read, [[11.5, -8.75]], rtol=1e-6)
  np.testing.assert_allclose(coefs.write, [[4401.0], [-3598.0]], rtol=1e-6)
  # the paper's A_r has row i from stream i; mix is its transpose: column j comes from stream j
  np.testing.assert_allclose(coefs.mix, [[22.0, -18.0], [33.0, -27.0]], rtol=1e-6)


def test_tanh_bounds_the_dynamic_part():
  for tanh, bound in ((True, 0.01), (False, 1.0)):
    connection = hc.HyperConnection(num_streams=2, tanh=tanh)
    streams, variables = init(connection)
    variables["params"]["dynamic_kernel"] = 100 * jnp.ones_like(
      nn.unbox(variables["params"]["dynamic_kernel"])
    ).at[0].set(-100.0)
    _, coefs = connection.apply(variables, streams)
    change = float(jnp.max(jnp.abs(coefs.write - 1)))
    assert (change <= bound * 1.001) == tanh, change


def test_dynamic_with_zero_kernel_is_static():
  streams, variables = init(hc.HyperConnection(num_streams=3, dynamic=False))
  static = kick(nn.unbox(variables))
  dynamic = {
    "params": {
      **static["params"],
      "dynamic_kernel": jnp.zeros((8, 5)),
      "dynamic_scale": jnp.full((2,), 0.7),
    }
  }
  h, coefs = hc.HyperConnection(num_streams=3, dynamic=False).apply(static, streams)
  h_dynamic, dynamic_coefs = hc.HyperConnection(num_streams=3).apply(dynamic, streams)
  chex.assert_trees_all_equal(h, h_dynamic)
  chex.assert_trees_all_equal(
    jax.tree.map(lambda a, b: jnp.broadcast_to(a, b.shape), coefs, dynamic_coefs), dynamic_coefs
  )


@pytest.mark.parametrize(
  "fields, extra",
  [
    ({"dynamic": False}, 0),
    ({}, 8 * 6 + 2),
    ({"norm_params": True}, 8 * 6 + 2 + 16),
    ({"norm": "rmsnorm", "norm_params": True}, 8 * 6 + 2 + 8),
  ],
)
def test_parameter_count_is_the_papers(fields, extra):
  _, variables = init(hc.HyperConnection(num_streams=4, **fields))
  assert hc.param_count(variables["params"]).total == 4 * 6 + extra


@pytest.mark.parametrize(
  "frozen, names",
  [("train_read_mix", ("static_read", "static_mix")), ("train_write", ("static_write",))],
)
def test_an_untrained_part_gets_no_gradient_and_keeps_its_value(frozen, names):
  connection = hc.HyperConnection(num_streams=3, **{frozen: False})
  streams, variables = init(connection)
  params = nn.unbox(variables)["params"]

  def loss(params):
    h, coefs = connection.apply({"params": params}, streams)
    out = connection.apply({"params": params}, streams, jnp.sin(h), coefs, method="write")
    return jnp.sum(jnp.sin(out * jnp.arange(1.0, 9.0).reshape(1, 1, 1, 8)))

  grads = jax.grad(loss)(params)
  columns = slice(0, 4) if frozen == "train_read_mix" else slice(4, 5)
  scale = 0 if frozen == "train_read_mix" else 1
  for name, grad in grads.items():
    if name in names:
      assert not jnp.any(grad), name
    elif name.startswith("static"):
      assert jnp.any(grad), name
  assert not jnp.any(grads["dynamic_kernel"][:, columns])
  assert jnp.any(grads["dynamic_kernel"])
  assert grads["dynamic_scale"][scale] == 0


def test_every_parameter_learns_after_a_kick():
  connection = hc.HyperConnection(num_streams=3, norm_params=True)
  streams, variables = init(connection)
  params = kick(nn.unbox(variables)["params"])

  def loss(params):
    h, coefs = connection.apply({"params": params}, streams)
    out = connection.apply({"params": params}, streams, jnp.sin(h), coefs, method="write")
    return jnp.sum(jnp.sin(out))

  for name, grad in jax.grad(loss)(params).items():
    assert jnp.all(jnp.isfinite(grad)) and jnp.any(jnp.abs(grad) > 1e-6), name


@pytest.mark.parametrize("stream_dtype", [jnp.bfloat16, jnp.float32])
def test_coefs_are_float32_and_nothing_but_params_exists(stream_dtype):
  connection = hc.HyperConnection(num_streams=4)
  streams, variables = init(connection)
  assert set(variables) <= {"params", "intermediates"}
  (h, coefs), sown = connection.apply(
    variables, streams.astype(stream_dtype), dtype=jnp.bfloat16, mutable=["intermediates"]
  )
  chex.assert_type(h, jnp.bfloat16)
  chex.assert_type(jax.tree.leaves(coefs), jnp.float32)
  chex.assert_trees_all_equal(sown["intermediates"]["coefs"][0], coefs)


def test_any_leading_axes():
  connection = hc.HyperConnection(num_streams=2)
  params = init(connection)[1]
  for lead in ((), (5,), (2, 3), (2, 3, 4)):
    h, coefs = connection.apply(params, jnp.ones((*lead, 2, 8)))
    chex.assert_shape(h, (*lead, 8))
    chex.assert_shape(coefs.mix, (*lead, 2, 2))


def test_residual_is_the_plain_addition():
  connection = hc.Residual()
  x = jax.random.normal(KEY, (2, 3, 8))
  streams = hc.expand(x, 1)
  h, coefs = connection.apply({}, streams)
  np.testing.assert_array_equal(h, x)
  y = jnp.sin(x)
  out = connection.apply({}, streams, y, coefs, method="write")
  np.testing.assert_array_equal(hc.reduce(out), x + y)


def test_a_model_fills_in_only_what_is_left_open():
  fill = {"norm": "rmsnorm", "norm_params": True, "norm_eps": 1e-3}
  for connection in (hc.HyperConnection, hc.HyperConnection()):
    made = connection_factory(connection, **fill)()
    assert (made.norm, made.norm_params, made.norm_eps) == ("rmsnorm", True, 1e-3)
  made = connection_factory(hc.HyperConnection(norm="layernorm", norm_params=False), **fill)()
  assert (made.norm, made.norm_params, made.norm_eps) == ("layernorm", False, 1e-3)
  assert connection_factory(hc.Residual, **fill)() == hc.Residual()


@pytest.mark.parametrize(
  "call, error, words",
  [
    (lambda: init(hc.HyperConnection(num_streams=0)), ValueError, "num_streams >= 1"),
    (lambda: init(hc.HyperConnection(fractions=2)), ValueError, "fractions=1"),
    (lambda: init(hc.HyperConnection(norm="batch")), ValueError, "layernorm"),
    (
      lambda: hc.HyperConnection(num_streams=4).init(KEY, jnp.ones((2, 3, 8))),
      ValueError,
      "expand",
    ),
    (lambda: hc.Residual(num_streams=2).init(KEY, jnp.ones((2, 8))), ValueError, "HyperConnection"),
    (lambda: connection_factory(nn.Dense), TypeError, "no connection"),
    (lambda: hc.make_connection("hcc"), hc.UserError, "residual, hc"),
    (lambda: hc.make_connection("residual", {"tanh": True}), hc.UserError, "no field 'tanh'"),
  ],
)
def test_what_does_not_fit_is_refused(call, error, words):
  with pytest.raises(error, match=words):
    call()
