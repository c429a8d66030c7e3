"""Hyper-connections: Eq. 14 at initialisation, rows and columns of the dynamic part, counts."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.connections import connection_factory
from hc_jax.testing.compiled import jit, normal

KEY = jax.random.key(0)
STREAMS = (2, 3)


def streams_of(connection, w=8):
  return normal("streams", *STREAMS, connection.num_streams, w)


def shapes(connection):
  """The parameters of a connection, as shapes: nothing compiles."""
  variables = jax.eval_shape(connection.init, KEY, streams_of(connection), 0)
  assert set(variables) <= {"params", "intermediates"}
  return nn.unbox(variables)["params"]


def kicked(connection):
  """Parameters away from their initial values, where true gradients are zero and prove nothing."""
  return {name: 1 + 0.3 * normal(name, *a.shape) for name, a in shapes(connection).items()}


def site(connection):
  """One site as a function of parameters and streams: branch input, coefs, next streams."""

  def run(params, streams):
    h, coefs = connection.apply({"params": params}, streams, 0)
    return (
      h,
      coefs,
      connection.apply({"params": params}, streams, jnp.sin(h), coefs, method="write"),
    )

  return run


@pytest.mark.parametrize(
  "n, dynamic", [(1, True), (2, False), (3, True), (4, True), (4, False), (8, False)]
)
def test_starts_as_equation_14(n, dynamic):
  connection = hc.HyperConnection(num_streams=n, dynamic=dynamic)
  streams = streams_of(connection)

  @jit
  @jax.vmap
  def at_init(index):
    return connection.init_with_output(KEY, streams, index)[0]

  indices = np.arange(2 * n + 1)
  h, coefs = at_init(indices)
  for index in indices:
    lead = STREAMS if dynamic else ()
    chex.assert_trees_all_equal(
      jax.tree.map(lambda a, i=index: np.asarray(a)[i], coefs),
      hc.Coefs(
        read=np.broadcast_to(np.eye(n, dtype=np.float32)[index % n][None], (*lead, 1, n)),
        write=np.ones((*lead, n, 1), np.float32),
        mix=np.broadcast_to(np.eye(n, dtype=np.float32), (*lead, n, n)),
      ),
    )
    np.testing.assert_array_equal(np.asarray(h)[index], streams[..., index % n, :])


def test_dynamic_part_by_hand():
  """Two streams of width two, rmsnorm with eps 0: row j of the projection belongs to stream j."""
  connection = hc.HyperConnection(num_streams=2, tanh=False, norm="rmsnorm", norm_eps=0.0)
  streams = np.float32([[1.0, 1.0], [2.0, -2.0]])  # normed: [1, 1] and [1, -1]
  params = {
    "static_read": np.float32([[0.5, 0.25]]),
    "static_mix": np.zeros((2, 2), np.float32),
    "static_write": np.float32([[1.0], [2.0]]),
    "dynamic_kernel": np.float32([[1.0, 2, 3, 4], [10.0, 20, 30, 40]]),  # read | mix | write
    "dynamic_scale": np.float32([1.0, 100.0]),
  }
  _, coefs = jit(connection.apply)({"params": params}, streams, 0)
  # stream 0 gives 11 | 22 33 | 44, stream 1 gives -9 | -18 -27 | -36
  np.testing.assert_allclose(coefs.read, [[11.5, -8.75]], rtol=1e-6)
  np.testing.assert_allclose(coefs.write, [[4401.0], [-3598.0]], rtol=1e-6)
  # the paper's A_r has row i from stream i; mix is its transpose: column j comes from stream j
  np.testing.assert_allclose(coefs.mix, [[22.0, -18.0], [33.0, -27.0]], rtol=1e-6)


def test_tanh_bounds_the_dynamic_part():
  for tanh, bound in ((True, 0.01), (False, 1.0)):
    connection = hc.HyperConnection(num_streams=2, tanh=tanh)
    params = kicked(connection)
    params["dynamic_kernel"] = np.full((8, 4), 100, np.float32)
    params["dynamic_kernel"][0] = -100
    params["dynamic_scale"] = np.full(2, 0.01, np.float32)
    _, coefs, _ = jit(site(connection))(params, streams_of(connection))
    change = float(np.max(np.abs(np.asarray(coefs.write) - params["static_write"])))
    assert (change <= bound * 1.001) == tanh, change


def test_dynamic_with_zero_kernel_is_static():
  dynamic = hc.HyperConnection(num_streams=3)
  params = {**kicked(dynamic), "dynamic_kernel": np.zeros((8, 5), np.float32)}
  static = {name: value for name, value in params.items() if name.startswith("static")}
  connection = hc.HyperConnection(num_streams=3, dynamic=False)
  h, coefs, out = jit(site(connection))(static, streams_of(connection))
  h_dynamic, dynamic_coefs, out_dynamic = jit(site(dynamic))(params, streams_of(connection))
  chex.assert_trees_all_close((h, out), (h_dynamic, out_dynamic), rtol=1e-6, atol=1e-6)
  chex.assert_trees_all_equal(
    jax.tree.map(lambda a, b: np.broadcast_to(a, b.shape), coefs, dynamic_coefs), dynamic_coefs
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
  params = shapes(hc.HyperConnection(num_streams=4, **fields))
  assert hc.param_count(params).total == 4 * 6 + extra


@pytest.mark.parametrize(
  "frozen, names",
  [("train_read_mix", ("static_read", "static_mix")), ("train_write", ("static_write",))],
)
def test_an_untrained_part_gets_no_gradient_and_keeps_its_value(frozen, names):
  connection = hc.HyperConnection(num_streams=3, **{frozen: False})
  grads = gradient(connection)
  columns = slice(0, 4) if frozen == "train_read_mix" else slice(4, 5)
  scale = 0 if frozen == "train_read_mix" else 1
  for name, grad in grads.items():
    if name in names:
      assert not np.any(grad), name
    elif name.startswith("static"):
      assert np.any(grad), name
  assert not np.any(grads["dynamic_kernel"][:, columns])
  assert np.any(grads["dynamic_kernel"])
  assert grads["dynamic_scale"][scale] == 0 != grads["dynamic_scale"][1 - scale]


def test_every_parameter_learns_after_a_kick():
  for name, grad in gradient(hc.HyperConnection(num_streams=3, norm_params=True)).items():
    assert np.all(np.isfinite(grad)) and np.any(np.abs(grad) > 1e-6), name


def gradient(connection):
  """Returns the gradient of a loss on the next streams, at kicked parameters."""
  streams = streams_of(connection)
  weights = normal("weights", *streams.shape)

  def loss(params):
    return jnp.sum(jnp.sin(weights * site(connection)(params, streams)[2]))

  return jax.tree.map(np.asarray, jit(jax.grad(loss))(kicked(connection)))


@pytest.mark.parametrize("stream_dtype", [jnp.bfloat16, jnp.float32])
def test_coefs_are_float32_and_what_is_sown(stream_dtype):
  connection = hc.HyperConnection(num_streams=4)
  streams = jnp.asarray(streams_of(connection), stream_dtype)

  @jit
  def run(params):
    return connection.apply(
      {"params": params}, streams, 0, dtype=jnp.bfloat16, mutable=["intermediates"]
    )

  (h, coefs), sown = run(kicked(connection))
  assert set(sown) == {"intermediates"}
  chex.assert_type(h, jnp.bfloat16)
  chex.assert_type(jax.tree.leaves(coefs), jnp.float32)
  chex.assert_trees_all_equal(sown["intermediates"]["coefs"][0], coefs)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (2, 3, 4)])
def test_any_leading_axes(lead):
  connection = hc.HyperConnection(num_streams=2)
  streams = jax.ShapeDtypeStruct((*lead, 2, 8), jnp.float32)
  h, coefs, out = jax.eval_shape(site(connection), shapes(connection), streams)
  chex.assert_shape(h, (*lead, 8))
  chex.assert_shape(coefs.mix, (*lead, 2, 2))
  chex.assert_equal_shape([out, streams])


def test_residual_is_the_plain_addition():
  x = normal("x", 2, 3, 8)
  h, _, out = jit(site(hc.Residual()))({}, x[..., None, :])
  np.testing.assert_array_equal(h, x)
  np.testing.assert_allclose(out[..., 0, :], x + np.sin(x), rtol=1e-6)


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
    (
      lambda: shapes(hc.HyperConnection(num_streams=0)),
      ValueError,
      "num_streams=0 must be at least 1",
    ),
    (lambda: shapes(hc.HyperConnection(fractions=2)), ValueError, "one fraction"),
    (lambda: shapes(hc.HyperConnection(norm="batch")), ValueError, "layernorm"),
    (
      lambda: hc.HyperConnection(num_streams=4).init(KEY, np.ones((2, 3, 8)), 0),
      ValueError,
      "expand",
    ),
    (
      lambda: hc.Residual(num_streams=2).init(KEY, np.ones((2, 8)), 0),
      ValueError,
      "HyperConnection",
    ),
    (lambda: connection_factory(nn.Dense), TypeError, "is not a connection"),
    (lambda: hc.make_connection("hcc"), hc.UserError, "residual, hc"),
    (lambda: hc.make_connection("residual", {"tanh": True}), hc.UserError, "no field 'tanh'"),
  ],
)
def test_what_does_not_fit_is_refused(call, error, words):
  with pytest.raises(error, match=words):
    call()


@pytest.mark.parametrize("name", ["num_streams", "fractions", "num_views"])
@pytest.mark.parametrize("value", [2.5, 2.0, True, "2", None])
def test_what_is_counted_is_a_whole_number(name, value):
  connection = hc.GeneralizedHyperConnection(**{name: value}, parent=None)
  with pytest.raises(ValueError, match=f"{name}={value!r} must be a whole number"):
    connection.check()


def test_numpys_whole_numbers_count():
  hc.HyperConnection(num_streams=np.int64(2), parent=None).check()


def test_streams_of_whole_numbers_are_refused():
  with pytest.raises(ValueError, match=r"are int32.*astype\(jnp.float32\)"):
    hc.HyperConnection(num_streams=2).init(jax.random.key(0), np.ones((3, 2, 4), np.int32), 0)
