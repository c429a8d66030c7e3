"""Every path of hyper-connections against the float64 reference, forward and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hc_jax as hc
from hc_jax.testing import reference

FORWARD, GRADIENT, BFLOAT16 = 2e-6, 1e-5, 6e-3  # relative norms over all of it; see README


def distance(got, want):
  """Norm of the difference over the norm of the reference, over the whole tree."""
  got = np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in jax.tree.leaves(got)])
  want = np.concatenate([np.ravel(a) for a in jax.tree.leaves(want)])
  return np.linalg.norm(got - want) / (np.linalg.norm(want) + 1e-6)


def random_case(seed, n, w, lead, dynamic, norm, norm_params):
  """Streams, parameters away from their initial values, and a weighting of the outputs."""
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
  """(forward, gradients) of ours and of the reference, for a loss on streams and coefficients."""
  n = streams.shape[-2]
  dynamic = "dynamic_kernel" in params
  connection = hc.HyperConnection(
    num_streams=n, dynamic=dynamic, norm_params="norm_scale" in params, **fields
  )
  options = {key: fields[key] for key in ("tanh", "norm") if key in fields}

  def ours(inputs):
    variables = {"params": inputs["params"]}
    h, coefs = connection.apply(variables, inputs["streams"])
    out = connection.apply(variables, inputs["streams"], jnp.sin(h), coefs, method="write")
    # The coefficients are used a second time, and the streams too.
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


@given(case=CASES, tanh=st.booleans(), implementation=st.sampled_from(["auto", "autodiff"]))
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_one_connection_in_float32(case, tanh, implementation):
  streams, params, weights = random_case(**case)
  fields = {"norm": case["norm"], "tanh": tanh, "implementation": implementation}
  forward, grads = both(streams, params, weights, **fields)
  assert distance(*forward) < FORWARD
  assert distance(*grads) < GRADIENT
