"""Tests of whole networks against the float64 reference, in odd shapes and while decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hc_jax as hc
from hc_jax.axes import unboxed
from hc_jax.testing.compiled import jit, normal
from hc_jax.testing.conformance import candidate
from hc_jax.testing.harness import FORWARD, GRADIENT
from hc_jax.testing.reference import transformer
from hc_jax.testing.traps import subject
from hc_jax.testing.traps.subject import distance

# Odd shapes: all numbers of streams, and lengths that are not a multiple of anything.
NETWORKS = st.fixed_dictionaries(
  {
    "n": st.sampled_from([1, 2, 3, 4, 8]),
    "shape": st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 3, 5, 7])),
    "d_model": st.sampled_from([2, 6, 10]),
    "options": st.fixed_dictionaries(
      {
        "scan": st.booleans(),
        "remat": st.sampled_from(["none", "branches", "full"]),
        "norm": st.sampled_from(["layernorm", "rmsnorm"]),
        "activation": st.sampled_from(["gelu", "swiglu"]),
        "positions": st.sampled_from(["rotary", "learned"]),
        "norm_position": st.sampled_from(["pre", "post"]),
      }
    ),
    "dynamic": st.booleans(),
    "derivatives": st.sampled_from(["custom", "autodiff"]),
  }
)


def network_distances(n, shape, d_model, options, dynamic, derivatives, change=lambda c: c):
  """Returns distances of a random network from float64: (logits, derivatives along directions)."""
  connection = functools.partial(
    hc.HyperConnection, num_streams=n, dynamic=dynamic, derivatives=derivatives
  )
  model = hc.models.TransformerLM(
    vocab_size=7, d_model=d_model, num_layers=2, num_heads=1, d_ff=3, max_length=8, init_std=0.3,
    norm_eps=1e-3, connection=connection, **options,
  )  # fmt: skip
  tokens = np.random.RandomState(n).randint(0, 7, shape)
  params = jax.tree_util.tree_map_with_path(
    lambda path, a: a + 0.1 * normal(jax.tree_util.keystr(path), *a.shape),
    unboxed(jit(model.init)(jax.random.key(0), tokens)["params"]),
  )
  weights = normal("loss", *shape, 7)

  def loss(params):
    logits = model.apply({"params": params}, tokens)
    return jnp.sum(logits * weights), logits

  (_, logits), grads = jit(jax.value_and_grad(loss, has_aux=True))(params)
  at, found = candidate.flat(change(params)), candidate.flat(grads)
  exact = functools.partial(transformer.logits, model, tokens=tokens)
  ways = candidate.directions(at, 2)
  want = candidate.slopes(lambda flat: np.sum(exact(flat) * weights), at, ways)
  return distance([logits], [exact(at)]), distance([candidate.along(found, ways)], [want])


@pytest.mark.exhaustive
@given(case=NETWORKS)
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_networks_of_any_shape_in_float32(case):
  forward, grads = network_distances(**case)
  assert forward < FORWARD
  assert grads < GRADIENT


@pytest.mark.slow
def test_a_network_of_other_parameters_is_not_that():
  options = {"scan": False}
  case = {"n": 2, "shape": (1, 3), "d_model": 6, "dynamic": True, "derivatives": "custom"}
  nudge = functools.partial(jax.tree.map, lambda a: a * 1.001)
  forward, grads = network_distances(**case, options=options, change=nudge)
  assert forward > 10 * FORWARD and grads > 10 * GRADIENT


@pytest.mark.exhaustive
def test_gradients_through_decoding_token_by_token():
  model = subject.network(subject.Subject(), scan=False)
  params, tokens = subject.kicked(model), subject.TOKENS
  init = functools.partial(model.init, decode=True)
  empty = jax.eval_shape(init, jax.random.key(0), tokens[:, :1])["cache"]
  cache = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), empty)

  def loss(params):
    def step(cache, token):
      variables = {"params": params, "cache": cache}
      logits, state = model.apply(variables, token[:, None], decode=True, mutable=["cache"])
      return state["cache"], logits[:, 0]

    logits = jax.lax.scan(step, cache, tokens.T)[1].swapaxes(0, 1)
    return jnp.sum(logits * subject.WEIGHTS), logits

  (_, logits), grads = jit(jax.value_and_grad(loss, has_aux=True))(params)
  want, want_grads = subject.exact(subject.STREAMS)
  assert distance([logits], [want]) < FORWARD
  found = candidate.flat(grads)
  assert distance([found[k] for k in want_grads], list(want_grads.values())) < GRADIENT
  first = {k: v for k, v in want_grads.items() if "query_kernel" in k}
  assert distance([found[k] for k in first], [2 * v for v in first.values()]) > 100 * GRADIENT
