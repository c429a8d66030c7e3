"""Results of hc_jax for a peer's weights and inputs, and their distance from the peer's results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import hc_jax as hc
from hc_jax import convert
from hc_jax.testing.compiled import jit

# Largest relative norm of the difference between two float32 computations: of an array, of all
# gradients together, of one gradient (a few numbers that may be differences of large ones), and of
# logits. Measured over three seeds: forward 2e-7, one gradient 1.2e-5, logits 3e-6.
FORWARD, GRADIENT, ONE_GRADIENT, LOGITS = 2e-6, 1e-5, 1e-4, 1e-5


def distance(got, want):
  """Returns the norm of the difference, divided by the norm of `want`."""
  got, want = (np.asarray(a, np.float64) for a in (got, want))
  assert got.shape == want.shape, (got.shape, want.shape)
  return np.linalg.norm(got - want) / (np.linalg.norm(want) + 1e-6)


def below(arrays, prefix):
  return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@functools.cache
def _hyper_connection(n, dynamic, tanh, constrained, norm_eps=0.0):
  connection = (hc.PerStreamMHC if constrained else hc.HyperConnection)(
    num_streams=n,
    dynamic=dynamic,
    tanh=tanh,
    norm="rmsnorm",
    norm_params=True,
    norm_eps=norm_eps,
  )

  def loss(params, streams, weights):
    h, coefs = connection.apply({"params": params}, streams, 0)
    out = connection.apply({"params": params}, streams, jnp.sin(h), coefs, method="write")
    return jnp.sum(out * weights), (h, out)

  return jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def hyper_connection_distances(case, tanh, *, dynamic=True, convert_state=None):
  """Computes a case of `make.hyper_connections`; returns the distances by name of array.

  Args:
    case: arrays by name.
    tanh: whether the case uses tanh.
    dynamic: False uses only the static parameters.
    convert_state: converter from a state dict to our parameters; tests pass wrong ones.
  """
  convert_state = convert_state or convert.from_hyper_connections
  params = convert_state(below(case, "state/"))
  wanted = convert_state(below(case, "grad/"))
  wanted["norm_scale"] = (
    wanted["norm_scale"] - 1
  )  # gamma is the scale minus one, but their gradients are equal
  if not dynamic:
    params = {name: value for name, value in params.items() if name.startswith("static_")}
  constrained = "read_scale" in params
  run = _hyper_connection(case["streams"].shape[-2], dynamic, tanh, constrained)
  (_, (h, out)), (grads, d_streams) = run(params, case["streams"], case["weights"])
  found = {"branch_input": distance(h, case["branch_input"]), "out": distance(out, case["out"])}
  # A zero stream can have a derivative of 1e12, which would hide faults of the other streams.
  zero = ~np.any(case["streams"], axis=-1)
  got = {**grads, "streams": d_streams[~zero]}
  want = {**wanted, "streams": case["grad/streams"][~zero]}
  found |= {f"grad/{name}": distance(g, want[name]) for name, g in got.items()}
  if np.any(zero):
    found["grad/zero_streams"] = max(map(distance, d_streams[zero], case["grad/streams"][zero]))
  found["gradient"] = distance(
    *(np.concatenate([np.ravel(t[k]) for k in got]) for t in (got, want))
  )
  return found


def check(distances):
  """Fails unless every distance is below the tolerance of its kind."""
  for name, found in distances.items():
    limit = {"gradient": GRADIENT, "branch_input": FORWARD, "out": FORWARD}.get(name, ONE_GRADIENT)
    assert found < limit, (name, found)


def olmo_model(case, tied, num_heads, **fields):
  """Returns the model that fits the parameters of `convert.from_olmo`."""
  state = below(case, "state/")
  vocab_size, d_model = state["model.embed_tokens.weight"].shape
  fields = {
    "vocab_size": vocab_size,
    "d_model": d_model,
    "num_layers": sum(name.endswith("q_proj.weight") for name in state),
    "num_heads": num_heads,
    "num_kv_heads": state["model.layers.0.self_attn.k_proj.weight"].shape[0] * num_heads // d_model,
    "d_ff": state["model.layers.0.mlp.up_proj.weight"].shape[0],
    "activation": "swiglu",
    "tie_embeddings": tied,
    "connection": hc.Residual,
    "scan": False,
    "remat": "none",
    **fields,
  }
  return hc.models.TransformerLM(**fields)


def olmo_distance(case, tied, num_heads):
  """Returns the distance of our logits from a case of `make.olmo`."""
  params = convert.from_olmo(below(case, "state/"), num_heads, tie_embeddings=tied)
  model = olmo_model(case, tied, num_heads)
  return distance(jit(model.apply)({"params": params}, case["tokens"]), case["logits"])
