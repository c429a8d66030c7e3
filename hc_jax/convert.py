"""Conversion of weights between other implementations and this package.

Input is a state dict of NumPy arrays, so that nothing here imports PyTorch:

    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

State = Mapping[str, Any]


def from_hyper_connections(state: State, prefix: str = "") -> dict[str, np.ndarray]:
  """Returns the parameters of one connection from the PyTorch package hyper-connections.

  The parameters of its `HyperConnections` fit `HyperConnection(num_streams=n, norm="rmsnorm",
  norm_params=True, norm_eps=0.0)` with the same `tanh`. Its norm is an RMSNorm without eps and
  stores its scale minus one. Its `alpha` holds the columns of read and mix as in the paper,
  transposed relative to ours. Its streams are `[b * n, ..., d]`, ours `[b, ..., n, d]`.

  The parameters of its `ManifoldConstrainedHyperConnections` fit `PerStreamMHC(num_streams=n,
  norm_params=True, norm_eps=0.0)`. It norms and projects each stream alone, unlike the paper's mHC,
  so that no parameters of `MHC` give the same function.

  Args:
    state: state dict of one of its modules, or of a network with such a module at `prefix`.
    prefix: beginning of the module's names in the network ("layers.0.0.").

  Returns:
    float32 parameters by name.

  Raises:
    ValueError: if a name is missing, or the module has fractions, several input views or several
      proposals for its mix.
  """
  constrained = f"{prefix}pre_branch_scale" in state
  alpha, alpha_kernel = (_get(state, prefix + k) for k in ("static_alpha", "dynamic_alpha_fn"))
  beta, beta_kernel = (_get(state, prefix + k) for k in ("static_beta", "dynamic_beta_fn"))
  n = alpha.shape[0]
  if constrained:
    if alpha_kernel.shape[0] != 1:
      raise ValueError(
        f"{prefix}dynamic_alpha_fn {alpha_kernel.shape} holds {alpha_kernel.shape[0]} proposals; "
        "only num_dynamic_alpha_proposals=1 can be converted"
      )
    alpha_kernel = alpha_kernel[0]
  if alpha.shape != (n, n + 1) or beta_kernel.ndim != 1 or alpha_kernel.shape[1] != n + 1:
    raise ValueError(
      f"{prefix}static_alpha {alpha.shape} and {prefix}dynamic_beta_fn {beta_kernel.shape} are of "
      "a module with fractions or several input views; only num_fracs=1 and num_input_views=1 "
      "can be converted"
    )
  names = {"dynamic_scale": ("dynamic_alpha_scale", "dynamic_beta_scale")}
  if constrained:
    names = {
      "read_scale": ("pre_branch_scale",),
      "mix_scale": ("residual_scale",),
      "write_scale": ("h_post_scale",),
    }
  scales = {
    ours: np.concatenate([_get(state, prefix + name).reshape(1) for name in theirs])
    for ours, theirs in names.items()
  }
  return {
    **scales,
    "static_read": alpha[:, :1].T,
    "static_mix": alpha[:, 1:].T,
    "static_write": beta[:, None],
    "dynamic_kernel": np.concatenate([alpha_kernel, beta_kernel[:, None]], axis=1),
    "norm_scale": _get(state, f"{prefix}norm.gamma") + 1,
  }


def to_hyper_connections(params: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
  """Returns a state dict of one `HyperConnections` module, as inverse of `from_hyper_connections`.

  Args:
    params: parameters of one `HyperConnection`, by name.
    prefix: beginning of the names in the state dict.

  Raises:
    ValueError: if a parameter is missing. Static connections, and connections whose norm has no
      scale or is not RMSNorm, have no counterpart there.
  """
  if "norm_bias" in params:
    raise ValueError("norm_bias has no counterpart in hyper-connections, whose norm is an RMSNorm")
  p = {
    name: _get(params, name)
    for name in ("static_read", "static_mix", "static_write", "dynamic_kernel", "dynamic_scale")
  }
  state = {
    "static_alpha": np.concatenate([p["static_read"].T, p["static_mix"].T], axis=1),
    "static_beta": p["static_write"][:, 0],
    "dynamic_alpha_fn": p["dynamic_kernel"][:, :-1],
    "dynamic_beta_fn": p["dynamic_kernel"][:, -1],
    "dynamic_alpha_scale": p["dynamic_scale"][0],
    "dynamic_beta_scale": p["dynamic_scale"][1],
    "norm.gamma": _get(params, "norm_scale") - 1,
  }
  return {prefix + name: value for name, value in state.items()}


def from_olmo(state: State, num_heads: int, *, tie_embeddings: bool = False) -> dict[str, Any]:
  """Returns the parameters of a `TransformerLM` from Hugging Face's `OlmoForCausalLM`.

  They fit a model with `activation="swiglu"`, rotary positions, LayerNorm without parameters, the
  plain residual connection, `scan=False` and the same sizes. A model with `clip_qkv` cannot be
  converted.

  Args:
    state: state dict of the whole model.
    num_heads: number of query heads; key and value heads follow from the shapes.
    tie_embeddings: whether the output layer is the token embedding (`tie_word_embeddings`).

  Returns:
    float32 parameters of unrolled layers; `hc_jax.models.stack_layers` converts to scanned layers.

  Raises:
    ValueError: if a name is missing, or the state has no layers.
  """

  def kernel(name: str) -> np.ndarray:
    return _get(state, f"{name}.weight").T  # PyTorch's Linear is [out, in]

  layers, i = {}, 0
  while any(name.startswith(f"model.layers.{i}.") for name in state):
    at = f"model.layers.{i}"
    query = kernel(f"{at}.self_attn.q_proj")
    if query.shape[1] % num_heads:
      raise ValueError(
        f"q_proj has {query.shape[1]} rows, which num_heads={num_heads} does not divide"
      )
    heads = (query.shape[0], -1, query.shape[1] // num_heads)  # [d, heads, their width]
    attn = {f"{k}_kernel": kernel(f"{at}.self_attn.{k[0]}_proj") for k in ("query", "key", "value")}
    attn = {name: value.reshape(heads) for name, value in attn.items()}
    attn["out_kernel"] = kernel(f"{at}.self_attn.o_proj").reshape(num_heads, -1, heads[0])
    names = {"in_kernel": "up_proj", "gate_kernel": "gate_proj", "out_kernel": "down_proj"}
    ffn = {ours: kernel(f"{at}.mlp.{theirs}") for ours, theirs in names.items()}
    layers[f"layer_{i}"] = {"attn": attn, "ffn": ffn}
    i += 1
  if not layers:
    raise ValueError("the state dict has no model.layers.0: it is not of an OlmoForCausalLM")
  embedding = _get(state, "model.embed_tokens.weight")
  params: dict[str, Any] = {"token_embed": {"embedding": embedding}, "stack": layers}
  if not tie_embeddings:
    params["output_kernel"] = kernel("lm_head")
  return params


def _get(state: State, name: str) -> np.ndarray:
  if name not in state:
    known = ", ".join(sorted(state)[:8])
    raise ValueError(f"{name!r} is missing; there are {known}, ... Is the prefix right?")
  return np.asarray(state[name], np.float32)
