"""Float64 NumPy reference of the language model: Algorithm 1 with attention and feed-forward.

It covers the options of `TransformerLM` except dropout, decoding, `layers`, parallel blocks,
`attention_views` outside whole blocks, and a `reduce` that is not the connection's own. It reads
the model's fields, but shares no arithmetic with it. Parameters may be complex, so that
`reference.gradient` can differentiate it.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from hc_jax.connections import Connection, connection_factory
from hc_jax.models import TransformerLM
from hc_jax.testing.reference import hyper as reference
from hc_jax.testing.reference.contrib import head_weights
from hc_jax.testing.reference.table import matrices_of

Params = Mapping[str, np.ndarray]


def logits(
  model: TransformerLM, params: Params, tokens: np.ndarray, visible: np.ndarray | None = None
) -> np.ndarray:
  """Computes the logits of the next token.

  Args:
    model: model whose fields choose the computation.
    params: parameters by path in unrolled layers ("stack/layer_0/attn/query_kernel"); real or
      complex.
    tokens: int `[B, L]`.
    visible: bool `[B | 1, L, L]`, the keys (last axis) that each query sees. By default the causal
      mask if the model is causal, otherwise all.

  Returns:
    Logits `[B, L, V]`.
  """
  embedding, length = params["token_embed/embedding"], tokens.shape[-1]
  if visible is None:
    visible = np.ones((1, length, length), bool)
    visible = np.tril(visible) if model.causal else visible
  connection, *of_block = _connections(model)
  x = embedding[tokens]
  if model.positions == "learned":
    x = x + params["position_embed/embedding"][:length]
  H = reference.copies(x, connection.num_streams, connection.fractions)
  if (model.expand or connection.expand_kind) == "first":
    H[..., connection.fractions :, :] = 0
  read = np.eye(1, connection.num_streams).T  # if sites carry their reads: the first site's read
  for layer in range(model.num_layers):
    p = below(params, f"stack/layer_{layer}")
    if model.block == "whole":
      H = _whole(model, p, H, of_block[0], layer, visible)
      continue
    for i, name in enumerate(("attn", "ffn")):
      matrices = matrices_of(of_block[i], below(p, f"{name}_connection"), 2 * layer + i)
      found = matrices(H)
      if connection.carries_read:
        found, read = dataclasses.replace(found, A_m=read), found.A_m
      has_norm = model.norm_position == "pre" and not connection.norms_input
      H = reference.sublayer(H, found, _branch(model, p, name, visible, has_norm))
      if model.norm_position == "post":
        H = norm(below(p, f"{name}_norm"), H, model)
  eps = model.norm_eps if model.final_norm_eps is None else model.final_norm_eps
  end = reference.collapse(H, connection.fractions)
  if connection.carries_read:
    end = np.einsum("...io,...id->...od", read, H)[..., 0, :]
  if connection.reduce_kind == "mean":
    end = end * connection.fractions / connection.num_streams
  if connection.reduce_kind in ("first", "backout"):
    end = H[..., 0, :]
  if connection.reduce_kind == "backout":
    end = end - params["reduce_streams/scale"] * H[..., 2, :]
  if connection.reduce_kind == "depth":
    p = below(params, "reduce_streams")
    query, m = p["depth_query"].reshape(1, connection.fractions, -1), connection.fractions
    weights = head_weights(H, query, p["scale"].reshape(m, -1), connection.norm_eps)[..., 0, :]
    slots = H.reshape(*H.shape[:-2], -1, m, H.shape[-1])
    end = np.sum(weights[..., None] * slots, axis=-3).reshape(*H.shape[:-2], -1)
  if connection.reduce_kind == "exit":
    p = below(params, "reduce_streams")
    last = matrices_of(of_block[0].exit(), p, model.num_layers)
    end = reference.inputs(H, last(H))[..., 0, :]
  if connection.reduce_kind == "gated":  # one more site, which only reads
    exit_ = connection.exit()
    if model.final_norm_eps is not None:
      exit_ = exit_.clone(norm_eps=eps)
    last = matrices_of(exit_, below(params, "reduce_streams"))
    hidden = reference.inputs(H, last(H))[..., 0, :]
  else:
    hidden = norm(below(params, "final_norm"), end, model, eps)
  return hidden @ (embedding.T if model.tie_embeddings else params["output_kernel"])


def _connections(model: TransformerLM) -> list[Connection]:
  """Returns the connection without a place, and then the connection of each site of a block."""
  per_block = 1 if model.block == "whole" else 2
  views = 4 if model.block == "whole" and model.attention_views else 1
  given = {
    "norm": model.norm,
    "norm_params": model.norm_params,
    "norm_eps": model.norm_eps,
    "num_sites": per_block * model.num_layers,
  }
  places = ({"sites_per_block": per_block, "site_in_block": i} for i in range(per_block))
  return [
    functools.partial(connection_factory(model.connection, **given, **place), num_views=views)(
      parent=None
    )
    for place in ({}, *places)
  ]


def _whole(
  model: TransformerLM,
  p: Params,
  H: np.ndarray,
  connection: Connection,
  layer: int,
  visible: np.ndarray,
) -> np.ndarray:
  """Runs a site whose branch is a Pre-Norm block with one input, or one for each view."""
  m = matrices_of(connection, below(p, "connection"), layer)(H)
  views = reference.inputs(H, m)  # [..., v, d]
  *read, x = [views[..., i, :] for i in range(views.shape[-2])]
  normed = [norm(below(p, "attn_norm"), a, model) for a in read] or norm(
    below(p, "attn_norm"), x, model
  )
  state = x + attention(below(p, "attn"), normed, model, visible)
  h = norm(below(p, "ffn_norm"), state, model)
  y = state + feed_forward(below(p, "ffn"), h, model)
  y = y if connection.branch_is_block else y - x
  mixed = np.einsum("...ij,...id->...jd", m.A_r, H)
  return np.einsum("...oi,...od->...id", m.B, y[..., None, :]) + mixed


def attention(
  p: Params, x: np.ndarray | list[np.ndarray], model: TransformerLM, visible: np.ndarray
) -> np.ndarray:
  """Computes softmax attention from one input, or from a list of inputs for query, key and value.

  Inputs and result are `[B, L, d]`; `visible` is bool `[B | 1, L, L]`.
  """
  of = x if isinstance(x, list) else [x] * 3
  query, key, value = (
    np.einsum("bld,dhk->blhk", x, p[f"{name}_kernel"])
    for x, name in zip(of, ("query", "key", "value"), strict=True)
  )
  if model.qk_norm:
    query, key = norm(below(p, "query_norm"), query, model), norm(below(p, "key_norm"), key, model)
  if model.positions == "rotary":
    positions = np.arange(of[0].shape[1])[None]
    query, key = (rotate(a, positions, model.rotary_theta) for a in (query, key))
  heads = np.arange(query.shape[2]) // (query.shape[2] // key.shape[2])  # key head of each query
  scores = np.einsum("blhk,bmhk->bhlm", query, key[:, :, heads]) / np.sqrt(query.shape[-1])
  scores = np.where(visible[:, None], scores, -np.inf)
  # Subtracting the largest score, as a constant, changes neither the softmax nor its derivatives.
  weights = np.exp(scores - np.max(scores.real, axis=-1, keepdims=True))
  weights = weights / np.sum(weights, axis=-1, keepdims=True)
  out = np.einsum("bhlm,bmhk->blhk", weights, value[:, :, heads])
  return np.einsum("blhk,hkd->bld", out, p["out_kernel"])


def rotate(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
  """Applies rotary positions to `[B, L, h, k]`: pair (i, i + k/2) turns by pos * theta^(-2i/k)."""
  k = x.shape[-1]
  angle = positions[..., None, None] * theta ** (-2 * np.arange(k // 2) / k)  # [B | 1, L, 1, k/2]
  a, b = x[..., : k // 2], x[..., k // 2 :]
  turned = [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
  return np.concatenate(turned, axis=-1)


def feed_forward(p: Params, x: np.ndarray, model: TransformerLM) -> np.ndarray:
  """Computes the feed-forward, `[B, L, d]` to `[B, L, d]`, with SwiGLU or tanh-GELU."""
  hidden = x @ p["in_kernel"]
  if model.activation == "swiglu":
    gate = x @ p["gate_kernel"]
    return (gate / (1 + np.exp(-gate)) * hidden) @ p["out_kernel"]
  inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
  return 0.5 * hidden * (1 + np.tanh(inner)) @ p["out_kernel"]


def norm(p: Params, x: np.ndarray, model: TransformerLM, eps: float | None = None) -> np.ndarray:
  """Applies the model's norm over the last axis, with the scale and bias that `p` has."""
  eps = model.norm_eps if eps is None else eps
  return reference.normalise(x, model.norm, eps, p.get("scale"), p.get("bias"))


def below(params: Params, path: str) -> Params:
  """Returns the parameters under a path, by the rest of their path."""
  return {k.removeprefix(f"{path}/"): v for k, v in params.items() if k.startswith(f"{path}/")}


def _branch(
  model: TransformerLM, p: Params, name: str, visible: np.ndarray, has_norm: bool
) -> reference.Branch:
  """Returns a sublayer's layer T, including its norm if it has one."""

  def run(h: np.ndarray) -> np.ndarray:
    h = norm(below(p, f"{name}_norm"), h, model) if has_norm else h
    weights = below(p, name)
    if name == "attn":
      return attention(weights, h, model, visible)
    return feed_forward(weights, h, model)

  return run
