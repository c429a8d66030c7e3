"""The gates from all streams that mHC, Identity HC, mHC-lite, KromHC and oHC share."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.reference import hyper as reference
from hc_jax.testing.reference.table import matrices_of
from hc_jax.testing.traps.subject import distance

FORWARD, GRADIENT = 2e-6, 1e-5
KEY = jax.random.key(0)
VARIANTS = {
  "mhc": hc.MHC,
  "mhc v4": functools.partial(hc.MHC, form="deepseek_v4"),
  "identity": hc.IdentityHC,
  "mhc_lite": hc.MHCLite,
  "kromhc": hc.KromHC,
  "ohc": hc.OrthogonalHC,
}
every = pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)


def shapes(connection, w=8):
  streams = normal("streams", 2, 3, connection.num_streams, w)
  return nn.unbox(jax.eval_shape(connection.init, KEY, streams, 0))["params"]


def kicked(connection, w=8):
  """Parameters whose logits are of order one, away from every special value."""
  return {
    name: (0.6 if name.endswith("scale") else 0.0) + 0.4 * normal(name, *a.shape)
    for name, a in shapes(connection, w).items()
  }


def at_init(connection, streams, index=0):
  return jit(lambda k: connection.init_with_output(KEY, streams, k)[0])(index)


def ours(connection, weights):
  def loss(inputs):
    variables = {"params": inputs["params"]}
    h, coefs = connection.apply(variables, inputs["streams"], 0)
    y = jnp.sin(h).reshape(*h.shape[:2], connection.num_views, -1).sum(-2)
    out = connection.apply(variables, inputs["streams"], y, coefs, method="write")
    # The coefficients are used a second time, and the streams too.
    total = jnp.sum(out * weights) + jnp.sum(jnp.square(coefs.read))
    return total + jnp.sum(inputs["streams"] ** 3), (h, out)

  return jit(jax.value_and_grad(loss, has_aux=True))


def theirs(connection, inputs, weights):
  params = {k: v for k, v in inputs.items() if k != "streams"}
  H = inputs["streams"]
  m = matrices_of(connection, params)(H)
  h = np.einsum("...iv,...iw->...vw", m.A_m, H)
  y = np.sin(h).sum(-2)
  out = np.einsum("...ij,...iw->...jw", m.A_r, H) + m.B[..., 0, :, None] * y[..., None, :]
  return np.sum(out * weights) + np.sum(m.A_m**2) + np.sum(H**3), (h, out)


@pytest.mark.exhaustive  # conformance compares the maps of each variant with its defaults
@every
@pytest.mark.parametrize(
  "fields",
  [
    {"num_streams": 4, "norm_params": True},
    {"num_streams": 4, "derivatives": "autodiff"},
    {"num_streams": 1},
    {"num_streams": 2, "num_views": 3},
  ],
  ids=lambda f: " ".join(map(str, f.values())),
)
def test_forward_and_gradient_are_the_references(make, fields):
  if fields["num_streams"] == 2 and make is hc.OrthogonalHC:
    fields = {**fields, "num_streams": 4}
  connection = make(**fields)
  n, w = connection.num_streams, 5
  inputs = {"params": kicked(connection, w), "streams": normal("s", 2, 3, n, w)}
  weights = normal("weights", 2, 3, n, w)
  (_, (h, out)), grads = ours(connection, weights)(inputs)
  flat = {k: v.astype(np.float64) for k, v in inputs["params"].items()}
  flat["streams"] = inputs["streams"].astype(np.float64)
  want_h, want = theirs(connection, flat, weights)[1]
  assert distance([h.reshape(want_h.shape), out], [want_h, want]) < FORWARD
  exact = reference.gradient(lambda f: theirs(connection, f, weights)[0], flat)
  got = {**grads["params"], "streams": grads["streams"]}
  assert set(got) == set(exact)
  assert distance(got, exact) < GRADIENT


@pytest.mark.parametrize(
  "connection, d, sites, count",
  [
    (hc.MHC(), 5120, 1, 491_547),
    (hc.MHC(norm_params=True), 768, 24, 1_843_848),
    (hc.MHCLite(norm_params=True), 768, 24, 2_433_864),
    (hc.KromHC(norm_params=True), 768, 24, 958_824),
    (hc.MHC(num_streams=8, norm_params=True), 768, 24, 11_945_928),
    (hc.KromHC(num_streams=8, norm_params=True), 768, 24, 3_392_088),
    (hc.IdentityHC(), 6144, 1, 196_618),
    (hc.OrthogonalHC(), 8, 1, 16 * 33 + 2),
    (hc.OrthogonalHC(train_mix_scale=True), 8, 1, 16 * 33 + 3),
    (hc.MHC(num_views=3), 8, 1, (3 * 4 + 4 + 16) * 33 + 3),
    *((make(num_streams=1), 8, 1, 8 + 1 + 1) for make in VARIANTS.values()),
  ],
)
def test_parameter_counts_are_the_published_ones(connection, d, sites, count):
  assert sites * connection.num_params(d) == count
  assert sites * hc.param_count(shapes(connection, d)).total == count


@every
def test_one_stream_reads_itself_and_mixes_nothing(make):
  connection = make(num_streams=1)
  streams = normal("streams", 2, 3, 1, 8)
  assert set(shapes(connection)) == {"write_kernel", "write_scale", "write_bias"}
  h, coefs = at_init(connection, streams)
  np.testing.assert_array_equal(h, streams[..., 0, :])
  np.testing.assert_array_equal(coefs.read, [[1]])
  assert coefs.mix is None


@every
def test_decay_goes_by_name(make):
  mask = hc.decay_mask(shapes(make(norm_params=True)))
  assert {name for name, decays in mask.items() if decays} == {n for n in mask if "kernel" in n}
  assert len(mask) > 6


@every
def test_identity_starts_with_the_mean_and_ones(make):
  connection = make(bias_init="identity", kernel_init_std=0.0)
  _, coefs = at_init(connection, normal("streams", 2, 3, 4, 8), 5)
  np.testing.assert_allclose(coefs.read, np.full((2, 3, 1, 4), 0.25), rtol=1e-5)
  np.testing.assert_array_equal(coefs.write, np.ones((2, 3, 4, 1)))
  if coefs.mix is not None:
    assert np.linalg.norm(np.asarray(coefs.mix) - np.eye(4), 2, axis=(-2, -1)).max() < 0.009


@every
@pytest.mark.slow
def test_onehot_rotates_with_the_site(make):
  connection = make(bias_init="onehot", num_views=2)
  up, down = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))
  for index in (0, 3, 6):
    _, coefs = at_init(connection, normal("streams", 3, 4, 8), index)
    want = np.where(np.arange(4) == index % 4, up, down)
    np.testing.assert_allclose(coefs.read, np.tile(want, (3, 2, 1)), atol=2e-6)
    np.testing.assert_allclose(coefs.write[..., 0], np.tile(2 * want, (3, 1)), atol=2e-6)


@every
def test_uniform_is_half_open_and_averages(make):
  connection = make(bias_init="uniform", kernel_init_std=0.0)
  _, coefs = at_init(connection, normal("streams", 3, 4, 8))
  np.testing.assert_allclose(coefs.read, np.full((3, 1, 4), 0.5), atol=2e-6)
  np.testing.assert_array_equal(coefs.write, np.ones((3, 4, 1)))
  if coefs.mix is not None and make is not hc.OrthogonalHC:
    np.testing.assert_allclose(coefs.mix, np.full((3, 4, 4), 0.25), atol=1e-6)


def test_the_norm_sees_all_streams_as_one():
  """n equal streams have the mean square of one; a stream that grows shrinks what others say."""
  connection = hc.IdentityHC(num_streams=2, norm_eps=0.0)
  params = jax.tree.map(np.zeros_like, kicked(connection, 2))
  params["write_scale"] = np.float32([1.0])
  params["write_kernel"][1, 0, 0] = 1.0  # the write of stream 0 listens to stream 1
  write = jit(lambda s: connection.apply({"params": params}, s, 0)[1].write[:, 0])
  got = write(np.float32([[3.0, 0.0], [4.0, 0.0]]))  # mean square 25/4
  np.testing.assert_allclose(got, [2 / (1 + np.exp(-1.6)), 1.0], rtol=1e-6)
  got = write(np.float32([[3.0, -3.0], [3.0, -3.0]]))
  np.testing.assert_allclose(got, [2 / (1 + np.exp(-1.0)), 1.0], rtol=1e-6)


@every
def test_the_sum_of_streams_takes_up_the_branch_and_keeps_the_rest(make):
  connection = make()
  streams, y = normal("streams", 2, 3, 4, 8), normal("y", 2, 3, 8)

  @jit
  def run(params):
    _, coefs = connection.apply({"params": params}, streams, 0)
    return coefs, connection.apply({"params": params}, streams, y, coefs, method="write")

  coefs, out = run(kicked(connection))
  kept = np.sum(out, -2) - np.sum(coefs.write, -2) * y - streams.sum(-2)
  facts = connection.facts(8)
  nearly = facts.mix_rows_sum_to_one is not None and facts.mix_columns_sum_to_one is None
  tolerance = 1e-3 if nearly else 1e-5
  assert (np.abs(kept).max() < tolerance) == (make is not hc.OrthogonalHC)


def distance_from_residual(connection, d=32, sites=4):
  """Returns how far the sum of streams is from n times the plain x + T(x), after some sites."""
  x = normal("x", 2, 3, d)
  streams, plain = np.repeat(x[..., None, :], connection.num_streams, -2), x

  @jit
  def site(key, streams, k):
    return connection.init_with_output(key, streams, k)[0]

  for k in range(sites):
    kernel = normal(f"branch{k}", d, d) / np.sqrt(d)
    h, coefs = jax.tree.map(np.asarray, site(jax.random.key(k), streams, k))
    mixed = streams if coefs.mix is None else coefs.mix @ streams
    streams = mixed + coefs.write * branch(h, kernel)[..., None, :]
    plain = plain + branch(plain, kernel)
  return distance(streams.sum(-2), connection.num_streams * plain)


def branch(h, kernel):
  return np.tanh(h / np.sqrt(np.mean(h * h, axis=-1, keepdims=True) + 1e-6) @ kernel)


@pytest.mark.slow  # conformance holds each variant to its facts
@every
def test_what_starts_as_a_residual_network_and_what_does_not(make):
  """`facts` says how near; a zero kernel leaves nothing but rounding and V4's eps."""
  near = make(bias_init="identity")
  found, claim = distance_from_residual(near), near.facts(32).residual_at_init
  assert claim / 50 < found < claim < 5e-3
  exact = make(bias_init="identity", kernel_init_std=0.0)
  assert distance_from_residual(exact) < exact.facts(32).residual_at_init == 1e-5
  other = make(bias_init="onehot")
  assert other.facts(32).residual_at_init is None and "not a residual" in other.facts(32).note
  assert distance_from_residual(other) > 0.05


def test_equal_streams_stay_equal_without_kernels_and_part_with_them():
  """The symmetry trap: every stream gets the same gradient."""
  y = normal("y", 2, 3, 8)

  def spread(std):
    connection = hc.IdentityHC(kernel_init_std=std)
    streams = jnp.broadcast_to(normal("x", 2, 3, 1, 8), (2, 3, 4, 8))

    def loss(variables):
      _, coefs = connection.apply(variables, streams, 0)
      out = connection.apply(variables, streams, y, coefs, method="write")
      return jnp.sum(jnp.sin(out))

    @jit
    def write_after_a_step():
      variables = nn.unbox(connection.init(KEY, streams, 0))
      moved = jax.tree.map(lambda p, g: p - g, variables, jax.grad(loss)(variables))
      return connection.apply(moved, streams, 0)[1].write

    return np.ptp(write_after_a_step(), axis=-2).max()

  assert spread(0.0) < 1e-6 < 1e-4 < spread(0.02)


@pytest.mark.parametrize(
  "call, words",
  [
    (lambda: hc.MHC(fractions=2).check(), "FracConnection"),
    (lambda: hc.MHC(num_streams=0).check(), "num_streams=0"),
    (lambda: hc.IdentityHC(bias_init="zero").check(), "identity, onehot, uniform"),
    (lambda: hc.make_connection("kromhc", {"bias_init": "one"}), "bias_init='one'"),
    (lambda: hc.make_connection("identity", {"sinkhorn_steps": 3}), "no field 'sinkhorn_steps'"),
  ],
)
def test_what_does_not_fit_is_refused(call, words):
  with pytest.raises((ValueError, hc.UserError), match=words):
    call()


@pytest.mark.parametrize(
  "connection",
  [
    hc.MHC(bias_init="uniform"),
    hc.MHCLite(bias_init="uniform"),
    hc.KromHC(bias_init="uniform"),
    hc.OrthogonalHC(bias_init="uniform"),
    hc.IdentityHC(bias_init="uniform"),
    hc.MHC(bias_init="uniform", num_streams=1),
  ],
  ids=lambda connection: f"{type(connection).__name__}-{connection.num_streams}",
)
@pytest.mark.slow
def test_the_note_on_uniform_is_true(connection):
  n, note = connection.num_streams, connection.facts(8).note
  streams = normal("streams", 2, n, 8)
  coefs = connection.clone(gate_scale_init=0.0).init_with_output(KEY, streams, 0)[0][1]
  if coefs.mix is None or not connection.num_mix_logits():
    assert "nothing is mixed" in note and "zero logits" not in note
    return
  mix = np.asarray(coefs.mix)
  assert ("a mix of zero logits averages all streams" in note) == np.allclose(mix, 1 / n)
  assert ("a mix of zero logits is the identity" in note) == np.allclose(mix, np.eye(n))
