"""Tests of every path of hyper-connections against the float64 reference, with gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hc_jax as hc
from hc_jax.testing.compiled import jit
from hc_jax.testing.reference import hyper as reference

FORWARD, GRADIENT, BFLOAT16 = 2e-6, 1e-5, 6e-3  # relative norms over a whole tree


def distance(got, want):
  """Returns the norm of the difference over the norm of the reference, over the whole tree."""
  got = np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in jax.tree.leaves(got)])
  want = np.concatenate([np.ravel(a) for a in jax.tree.leaves(want)])
  return np.linalg.norm(got - want) / (np.linalg.norm(want) + 1e-6)


def random_case(seed, n, w, lead, dynamic, norm, norm_params):
  """Returns streams, parameters away from their initial values, and weights of the outputs."""
  rng = np.random.RandomState(seed)
  params = {
    "static_read": rng.randn(1, n),
    "static_mix": np.eye(n) + 0.3 * rng.randn(n, n),
    "static_write": 1 + 0.3 * rng.randn(n, 1),
  }
  if dynamic:
    params["dynamic_kernel"] = rng.randn(w, n + 2) / np.sqrt(w)
    params["dynamic_scale"] = 0.5 + 0.1 * rng.randn(2)
    if norm_params:
      params["norm_scale"] = 1 + 0.3 * rng.randn(w)
      if norm == "layernorm":
        params["norm_bias"] = 0.3 * rng.randn(w)
  streams = rng.randn(*lead, n, w) + 0.5 * rng.randn(*lead, n, 1)
  return streams, params, rng.randn(*lead, n, w)


def both(streams, params, weights, stream_dtype=jnp.float32, **fields):
  """Returns (forward, gradients) of ours and of the reference, for a loss on streams and coefs."""
  n = streams.shape[-2]
  dynamic = "dynamic_kernel" in params
  connection = hc.HyperConnection(
    num_streams=n, dynamic=dynamic, norm_params="norm_scale" in params, **fields
  )
  options = {key: fields[key] for key in ("tanh", "norm") if key in fields}

  def ours(inputs):
    variables = {"params": inputs["params"]}
    h, coefs = connection.apply(variables, inputs["streams"], 0)
    out = connection.apply(variables, inputs["streams"], jnp.sin(h), coefs, method="write")
    # The loss uses the coefficients and the streams a second time.
    loss = jnp.sum(out.astype(jnp.float32) * weights) + jnp.sum(jnp.square(coefs.write))
    return loss + jnp.sum(inputs["streams"].astype(jnp.float32) ** 3), (h, out)

  def theirs(flat):
    H = flat["streams"]
    matrices = reference.from_params({k: v for k, v in flat.items() if k != "streams"}, **options)
    m = matrices(H)
    h = np.einsum("...ij,...id->...d", m.A_m, H)
    out = reference.sublayer(H, m, np.sin)
    return np.sum(out * weights) + np.sum(m.B**2) + np.sum(H**3), (h, out)

  inputs = jax.tree.map(
    lambda a: jnp.asarray(a, jnp.float32), {"params": params, "streams": streams}
  )
  inputs["streams"] = inputs["streams"].astype(stream_dtype)
  (_, forward), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(inputs)
  exact = jax.tree.map(lambda a: np.asarray(a.astype(jnp.float32), np.float64), inputs)
  flat = {**exact["params"], "streams": exact["streams"]}
  want = theirs(flat)[1]
  want_grads = reference.gradient(lambda f: theirs(f)[0], flat)
  got_grads = {**grads["params"], "streams": grads["streams"]}
  return (forward, want), (
    {k: got_grads[k].astype(jnp.float32) for k in sorted(got_grads)},
    {k: want_grads[k] for k in sorted(want_grads)},
  )


MATRIX = np.random.RandomState(5).randn(5, 5).astype(np.float32)


def branches(np):
  """Returns four layers T with their norms, in NumPy or in JAX."""

  def normed(h):
    h = h - np.mean(h, axis=-1, keepdims=True)
    return h / np.sqrt(np.mean(h * h, axis=-1, keepdims=True) + 1e-5)

  return [
    lambda h: np.sin(normed(h)) + 0.3 * h,
    lambda h: normed(h) * np.cos(normed(h)),
    lambda h: np.tanh(normed(h) @ MATRIX),
    lambda h: np.sin(normed(h)),
  ]


BRANCHES, OURS = branches(np), branches(jnp)


def chain(n, dynamic, orient=lambda mix: mix):
  """Runs Algorithm 1 with ours, and returns (output, branch inputs, branch outputs).

  `orient` changes the mix before write, to make mistakes on purpose.
  """
  connection = hc.HyperConnection(num_streams=n, dynamic=dynamic)

  def run(inputs):
    streams, reads, writes = hc.expand(inputs["x"], n), [], []
    for k, branch in enumerate(OURS):
      variables = {"params": inputs[f"site{k}"]}
      h, coefs = connection.apply(variables, streams, k)
      y = branch(h)
      coefs = coefs.replace(mix=orient(coefs.mix))
      streams = connection.apply(variables, streams, y, coefs, method="write")
      reads.append(h)
      writes.append(y)
    return hc.reduce(streams), reads, writes

  return run


def chain_inputs(n, dynamic, seed=3):
  """Returns the parameters of every site, and x."""
  sites = [
    random_case(seed + k, n, 5, (), dynamic, "layernorm", False)[1] for k in range(len(OURS))
  ]
  for site in sites:
    # All of one sign: the first site reads n equal streams, and if the weights almost cancel, the
    # derivative of the norm that follows magnifies every rounding.
    site["static_read"] = np.abs(site["static_read"]) + 0.5
  inputs = {
    **{f"site{k}": site for k, site in enumerate(sites)},
    "x": np.random.RandomState(seed).randn(2, 3, 5),
  }
  return jax.tree.map(lambda a: np.asarray(a, np.float32), inputs)


def chain_distances(n, dynamic, orient=lambda mix: mix, seed=3):
  """Returns the distances of ours from Algorithm 1 in float64: (forward, gradients)."""
  inputs = chain_inputs(n, dynamic, seed)
  weights = np.random.RandomState(9).randn(2, 3, 5).astype(np.float32)

  def loss(inputs):
    out = chain(n, dynamic, orient)(inputs)[0]
    return jnp.sum(out * weights), out

  (_, got), grads = jit(jax.value_and_grad(loss, has_aux=True))(inputs)
  flat = {
    jax.tree_util.keystr(path): np.asarray(leaf, np.float64)
    for path, leaf in jax.tree_util.tree_leaves_with_path(inputs)
  }

  def exact(flat):
    sites = [
      {name: flat[f"['site{k}']['{name}']"] for name in inputs[f"site{k}"]}
      for k in range(len(BRANCHES))
    ]
    matrices = [reference.from_params(site) for site in sites]
    return reference.network(flat["['x']"], n, matrices, BRANCHES)

  want_grads = reference.gradient(lambda f: np.sum(exact(f) * weights), flat)
  got_grads = {
    jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
  }
  return distance(got, exact(flat)), distance(got_grads, {k: want_grads[k] for k in got_grads})


# The conformance suite tests networks with other numbers of streams.
@pytest.mark.parametrize("n, dynamic", [(2, False), (3, True)])
def test_a_whole_network_is_algorithm_1(n, dynamic):
  forward, grads = chain_distances(n, dynamic)
  assert forward < FORWARD
  assert grads < GRADIENT


@pytest.mark.slow
def test_a_transposed_or_detached_mix_is_not_algorithm_1():
  forward, grads = chain_distances(3, True, lambda mix: mix.swapaxes(-1, -2))
  assert forward > 100 * FORWARD and grads > 100 * GRADIENT
  forward, grads = chain_distances(3, True, jax.lax.stop_gradient)  # a mistake only in gradients
  assert forward < FORWARD and grads > 100 * GRADIENT


def unfolded_distance(change=lambda c: c):
  """Returns the distance of the inputs that `unfold` rebuilds from the actual inputs."""
  n = 3
  inputs = chain_inputs(n, dynamic=False)
  out, reads, writes = jit(chain(n, dynamic=False))(inputs)
  matrices = [reference.from_params(inputs[f"site{k}"])(None) for k in range(len(OURS))]
  made_of = np.stack([inputs["x"], *writes]).astype(np.float64)
  found = np.einsum("kj,j...->k...", change(reference.unfold(matrices)), made_of)
  return distance(list(found), [np.asarray(a, np.float64) for a in (*reads, out)])


def test_unfold_rebuilds_every_layers_input():
  assert unfolded_distance() < FORWARD
  assert unfolded_distance(np.transpose) > 0.1
  assert unfolded_distance(lambda c: c - np.diag(np.diag(c))) > 0.1


def of(text):
  """Returns matrices from the rows of `[[0, B], [A_m, A_r]]`, written "0BB/mrr/mrr"."""
  rows = np.array([[float(c) for c in row] for row in text.split("/")])
  return reference.Matrices(A_m=rows[1:, :1], A_r=rows[1:, 1:], B=rows[:1, 1:])


def test_unfold_of_known_networks():
  ones = np.tril(np.ones((4, 4)))
  # Pre-Norm (Eq. 15): every layer sees the embedding and all outputs before it, once.
  np.testing.assert_array_equal(reference.unfold([of("01/11")] * 3), ones)
  # Eq. 14 with n streams is the same, except that the sum at the end counts everything n times.
  initial = reference.unfold([reference.initial(2, k) for k in range(3)])
  np.testing.assert_array_equal(initial, ones * [[1], [1], [1], [2]])
  # Sublayer 0 writes to stream 1, which sublayer 2 reads and sublayer 1 does not.
  sites = [of("001/110/001"), of("010/110/001"), of("010/010/101")]
  want = [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [2, 1, 1, 1]]
  np.testing.assert_array_equal(reference.unfold(sites), want)
  # A_r is not symmetric: the mix of sublayer 0 carries stream 0 into 1 (A_r[0, 1]), not back.
  sites = [of("000/111/001"), of("000/010/101"), of("000/110/001")]
  want = [[1, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0], [3, 0, 0, 0]]
  np.testing.assert_array_equal(reference.unfold(sites), want)
  flipped = [dataclasses.replace(m, A_r=m.A_r.T) for m in sites]
  assert not np.array_equal(reference.unfold(flipped), want)


SLOW = pytest.mark.exhaustive


@pytest.mark.parametrize(
  "n, dynamic",
  [
    pytest.param(1, True, marks=SLOW),
    pytest.param(3, False, marks=SLOW),
    (4, True),
    pytest.param(8, True, marks=SLOW),
  ],
)
def test_one_connection_with_bfloat16_streams(n, dynamic):
  streams, params, weights = random_case(n, n, 16, (2, 5), dynamic, "layernorm", False)
  forward, _ = both(streams, params, weights, stream_dtype=jnp.bfloat16)
  assert distance(*forward) < BFLOAT16
  # Rounding twice as coarsely (seven bits to six) exceeds the bound.
  coarse = [np.asarray(a, np.float64) for a in forward[0]]
  coarse = [a - np.sign(a) * np.exp2(np.floor(np.log2(np.abs(a) + 1e-30)) - 6) for a in coarse]
  assert distance(coarse, forward[1]) > BFLOAT16


CASES = st.fixed_dictionaries(
  {
    "n": st.sampled_from([1, 2, 3, 4, 8]),
    "w": st.sampled_from([1, 2, 7]),
    "lead": st.sampled_from([(), (1,), (3,), (2, 3)]),
    "dynamic": st.booleans(),
    "norm": st.sampled_from(["layernorm", "rmsnorm"]),
    "norm_params": st.booleans(),
    "seed": st.integers(0, 10**6),
  }
)


@pytest.mark.slow
@given(case=CASES, tanh=st.booleans(), derivatives=st.sampled_from(["custom", "autodiff"]))
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_one_connection_in_float32(case, tanh, derivatives):
  streams, params, weights = random_case(**case)
  fields = {"norm": case["norm"], "tanh": tanh, "derivatives": derivatives}
  forward, grads = both(streams, params, weights, **fields)
  assert distance(*forward) < FORWARD
  assert distance(*grads) < GRADIENT
