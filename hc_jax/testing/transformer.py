"""The language model of the traps in float64 NumPy: Algorithm 1 with attention and feed-forward.

Pre-Norm without norm parameters, rotary positions, GELU, tied embeddings. Complex numbers pass
through, so that `reference.gradient` differentiates it.
"""

from collections.abc import Mapping

import numpy as np

from hc_jax.testing import reference

Params = Mapping[str, np.ndarray]


def logits(params: Params, tokens: np.ndarray, num_layers: int, eps: float) -> np.ndarray:
  """The logits of the next token.

  Args:
    params: by path ("stack/layer_0/attn/query_kernel"), of unrolled layers.
    tokens: int `[B, L]`.
    num_layers: blocks.
    eps: of all norms but the final one, which has 1e-12.

  Returns:
    `[B, L, V]`.
  """
  embedding = params["token_embed/embedding"]
  matrices, branches = [], []
  for layer in range(num_layers):
    for name, run in (("attn", attention), ("ffn", feed_forward)):
      p = _below(params, f"stack/layer_{layer}/{name}/")
      connection = _below(params, f"stack/layer_{layer}/{name}_connection/")
      matrices.append(_matrices(connection, eps))
      branches.append(lambda h, p=p, run=run: run(p, reference.normalise(h, "layernorm", eps)))
  n = connection["static_read"].shape[-1] if connection else 1
  hidden = reference.network(embedding[tokens], n, matrices, branches)
  return reference.normalise(hidden, "layernorm", 1e-12) @ embedding.T


def attention(p: Params, x: np.ndarray) -> np.ndarray:
  """Causal softmax attention, `[B, L, d]` -> `[B, L, d]`."""
  query, key, value = (
    np.einsum("bld,dhk->bhlk", x, p[f"{name}_kernel"]) for name in ("query", "key", "value")
  )
  scores = rotate(query) @ rotate(key).swapaxes(-1, -2) / np.sqrt(query.shape[-1])
  visible = np.tril(np.ones(scores.shape[-2:]))
  # The largest is taken off as a constant: softmax does not see it, nor do derivatives.
  weights = np.exp(scores - np.max(scores.real, axis=-1, keepdims=True)) * visible
  out = weights / np.sum(weights, axis=-1, keepdims=True) @ value
  return np.einsum("bhlk,hkd->bld", out, p["out_kernel"])


def rotate(x: np.ndarray, theta: float = 10000.0) -> np.ndarray:
  """Rotary positions of `[B, h, L, k]`: pairs (i, i + k/2) turn by position * theta^(-2i/k)."""
  length, k = x.shape[-2:]
  angle = np.arange(length)[:, None] * theta ** (-2 * np.arange(k // 2) / k)
  a, b = x[..., : k // 2], x[..., k // 2 :]
  turned = [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
  return np.concatenate(turned, axis=-1)


def feed_forward(p: Params, x: np.ndarray) -> np.ndarray:
  """`[B, L, d]` -> `[B, L, d]`; GELU by its tanh approximation."""
  hidden = x @ p["in_kernel"]
  inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
  return 0.5 * hidden * (1 + np.tanh(inner)) @ p["out_kernel"]


def _matrices(connection: Params, eps: float):
  """Of one sublayer; a model without parameters of connections is the Pre-Norm residual."""
  if connection:
    return reference.from_params(connection, eps=eps)
  return lambda H: reference.initial(1, 0)


def _below(params: Params, prefix: str) -> Params:
  return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}
