"""What ours makes of a peer's weights and inputs, and how far it is from what the peer made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import hc_jax as hc
from hc_jax import convert
from hc_jax.testing.compiled import jit

# Of two float32 computations: relative norm of the difference over an array, over all gradients,
# and over that of one parameter, whose few numbers may be differences of large ones. Measured over
# three seeds: forward 2e-7, gradients of one parameter 1.2e-5, logits 3e-6 (4e-5 at most, of 9).
FORWARD, GRADIENT, ONE_GRADIENT, LOGITS = 2e-6, 1e-5, 1e-4, 1e-5


def distance(got, want):
  """Norm of the difference over the norm of what is wanted."""
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
  """How far ours is from a case of `make.hyper_connections`, by name of array.

  Args:
    case: arrays by name.
    tanh: of the case.
    dynamic: false takes the static parameters alone.
    convert_state: from a state dict to ours; to make mistakes with.
  """
  convert_state = convert_state or convert.from_hyper_connections
  params = convert_state(below(case, "state/"))
  wanted = convert_state(below(case, "grad/"))
  wanted["norm_scale"] = (
    wanted["norm_scale"] - 1
  )  # gamma is the scale less one, its gradient is not
  if not dynamic:
    params = {name: value for name, value in params.items() if name.startswith("static_")}
  constrained = "read_scale" in params
  run = _hyper_connection(case["streams"].shape[-2], dynamic, tanh, constrained)
  (_, (h, out)), (grads, d_streams) = run(params, case["streams"], case["weights"])
  found = {"branch_input": distance(h, case["branch_input"]), "out": distance(out, case["out"])}
  # A zero stream can have a derivative of 1e12, which would hide what is wrong with the others.
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
  """The model whose parameters `convert.from_olmo` gives."""
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
  """How far our logits are from a case of `make.olmo`."""
  params = convert.from_olmo(below(case, "state/"), num_heads, tie_embeddings=tied)
  model = olmo_model(case, tied, num_heads)
  return distance(jit(model.apply)({"params": params}, case["tokens"]), case["logits"])
