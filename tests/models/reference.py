"""The transformer in float64 NumPy, written from the papers: explicit and slow."""

import numpy as np


def norm(x, kind, scale=None, bias=None, eps=1e-5):
  if kind == "layernorm":
    x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
  x = x if scale is None else x * scale
  return x if bias is None else x + bias


def rotate_half(x, positions, theta=10000.0):
  """Rotary positions of `[B, L, h, k]`: pairs (i, i + k/2) turn by position * theta^(-2i/k)."""
  k = x.shape[-1]
  angle = positions[..., None] * theta ** (-2 * np.arange(k // 2) / k)  # [B, L, k/2]
  z = (x[..., : k // 2] + 1j * x[..., k // 2 :]) * np.exp(1j * angle)[:, :, None]
  return np.concatenate([z.real, z.imag], -1)


def attention(p, x, positions, model, visible):
  query, key, value = (
    np.einsum("bld,dhk->blhk", x, p[f"{n}_kernel"]) for n in ("query", "key", "value")
  )
  if model.qk_norm:
    query = norm(query, model.norm, eps=model.norm_eps, **p["query_norm"])
    key = norm(key, model.norm, eps=model.norm_eps, **p["key_norm"])
  if model.positions == "rotary":
    query = rotate_half(query, positions, model.rotary_theta)
    key = rotate_half(key, positions, model.rotary_theta)
  groups = query.shape[2] // key.shape[2]
  out = np.zeros_like(query)
  for h in range(query.shape[2]):
    scores = query[:, :, h] @ key[:, :, h // groups].swapaxes(1, 2) / np.sqrt(query.shape[-1])
    scores = np.where(visible, scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    out[:, :, h] = scores / scores.sum(-1, keepdims=True) @ value[:, :, h // groups]
  return np.einsum("blhk,hkd->bld", out, p["out_kernel"])


def feed_forward(p, x, model):
  hidden = x @ p["in_kernel"]
  if model.activation == "swiglu":
    gate = x @ p["gate_kernel"]
    hidden = gate / (1 + np.exp(-gate)) * hidden
  else:
    cubic = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
    hidden = 0.5 * hidden * (1 + np.tanh(cubic))
  return hidden @ p["out_kernel"]


def hyper_matrix(p, streams, model):
  """A_m [n, 1], A_r [n, n] and B [1, n] of one token's streams, as in 2409.19606 Eq. 10-13."""
  read, mix, write = p["static_read"].T, p["static_mix"].T, p["static_write"].T
  if "dynamic_kernel" in p:
    n = len(streams)
    normed = norm(streams, model.norm, p.get("norm_scale"), p.get("norm_bias"), model.norm_eps)
    parts = np.tanh(normed @ p["dynamic_kernel"])
    s_alpha, s_beta = p["dynamic_scale"]
    read = read + s_alpha * parts[:, :1]
    mix = mix + s_alpha * parts[:, 1 : n + 1]
    write = write + s_beta * parts[:, n + 1 :].T
  return read, mix, write


def forward(model, params, tokens, visible=None):
  """Logits `[B, L, V]` of unrolled parameters; `visible` bool `[B, L, L]`, causal by default."""
  params = _float64(params)
  length = tokens.shape[1]
  positions = np.arange(length)[None]
  if visible is None:
    visible = np.tril(np.ones((1, length, length), bool))
  normed = lambda x, p, eps=model.norm_eps: norm(x, model.norm, eps=eps, **(p or {}))  # noqa: E731
  x = params["token_embed"]["embedding"][tokens]
  if model.positions == "learned":
    x = x + params["position_embed"]["embedding"][positions]
  n = _streams(params)
  streams = np.repeat(x[:, :, None], n, axis=2)
  for layer in range(model.num_layers):
    p = params["stack"][f"layer_{layer}"]
    for name in ("attn", "ffn"):
      maps = _maps(p.get(f"{name}_connection"), streams, model)
      h = np.einsum("blio,blid->bld", maps["read"], streams)
      h = normed(h, p.get(f"{name}_norm")) if model.norm_position == "pre" else h
      y = attention(p[name], h, positions, model, visible) if name == "attn" else None
      y = feed_forward(p[name], h, model) if y is None else y
      mixed = np.einsum("blij,blid->bljd", maps["mix"], streams)  # A_r^T H
      streams = mixed + np.einsum("bloj,bld->bljd", maps["write"], y)
      if model.norm_position == "post":
        streams = normed(streams, p.get(f"{name}_norm"))
  eps = model.norm_eps if model.final_norm_eps is None else model.final_norm_eps
  hidden = normed(streams.sum(2), params.get("final_norm"), eps)
  kernel = params["token_embed"]["embedding"].T if model.tie_embeddings else params["output_kernel"]
  return hidden @ kernel


def _maps(p, streams, model):
  """The maps of every token: read `[B, L, n, 1]`, mix `[B, L, n, n]`, write `[B, L, 1, n]`."""
  lead = streams.shape[:2]
  maps = {
    "read": np.ones((*lead, 1, 1)),
    "mix": np.ones((*lead, 1, 1)),
    "write": np.ones((*lead, 1, 1)),
  }
  if p is not None:
    n = streams.shape[2]
    maps = {
      "read": np.zeros((*lead, n, 1)),
      "mix": np.zeros((*lead, n, n)),
      "write": np.zeros((*lead, 1, n)),
    }
    for b, t in np.ndindex(*lead):
      found = hyper_matrix(p, streams[b, t], model)
      for key, value in zip(("read", "mix", "write"), found, strict=True):
        maps[key][b, t] = value
  return maps


def _streams(params):
  connection = params["stack"]["layer_0"].get("attn_connection")
  return 1 if connection is None else connection["static_read"].shape[-1]


def _float64(tree):
  if isinstance(tree, dict):
    return {key: _float64(value) for key, value in tree.items()}
  return np.asarray(tree, np.float64)
