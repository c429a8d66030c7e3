"""Float64 NumPy references of `hc_jax.connections.contrib`, each written from its source.

Functions accept complex numbers too, so that derivatives can be taken by complex steps.
"""

from collections.abc import Callable, Mapping

import numpy as np

from hc_jax.connections import Connection
from hc_jax.connections.contrib import MultiHeadAttentionResiduals, PartitionedHC
from hc_jax.testing.reference.hyper import Matrices, normalise

Params = Mapping[str, np.ndarray]
Site = Callable[[np.ndarray], Matrices]


def partitioned(connection: PartitionedHC, params: Params, index: int) -> Site:
  """Returns the matrices of modded-nanogpt's two lanes, by applying its update to unit lanes."""
  blocks = connection.num_sites // 2
  start = connection.first_block
  start = int(7 / 11 * blocks + 1e-9) if start is None else start
  resid_lambda, post = params["mix_scale"][0], list(params["static_write"])
  if index // 2 < start:
    post[1] = post[0]

  def lanes(lane0: np.ndarray, lane1: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.stack([resid_lambda * lane0 + post[0] * out, resid_lambda * lane1 + post[1] * out])

  one, none = np.array([1.0, 0.0]), np.zeros(2)
  reads = one if index % 2 == 0 else 1 - one
  A_r = lanes(one, 1 - one, none).T  # column s holds the weights of lane s afterwards
  B = lanes(np.zeros(1), np.zeros(1), np.ones(1)).T
  A_m = np.tile(reads[:, None], (1, connection.num_views))
  return lambda H: Matrices(A_m=A_m, A_r=A_r, B=B)


def multi_head_attention_residuals(
  connection: MultiHeadAttentionResiduals, params: Params, index: int
) -> Site:
  """Returns the matrices of MHAR (2607.27230 Eq. 3): a softmax over finished blocks per head."""
  n, H, B = connection.num_streams, connection.fractions, connection.block_sites
  now = index // B + 1  # slot of the unfinished block, after the finished blocks
  seen = list(range(now)) + ([now] if index % B else [])
  written = np.eye(n)[now * H : (now + 1) * H]
  q, gamma = params["depth_query"], params["norm_scale"]

  def site(X: np.ndarray) -> Matrices:
    views = len(q)
    alive = X.reshape(*X.shape[:-2], n // H, H, X.shape[-1])[..., seen, :, :]
    alive = alive.reshape(*X.shape[:-2], len(seen) * H, X.shape[-1])
    alpha = head_weights(alive, q, gamma, connection.norm_eps)  # [..., seen, views, H]
    A_m = np.zeros((*X.shape[:-1], views * H), alpha.dtype)
    for k, slot in enumerate(seen):
      for h in range(H):
        A_m[..., slot * H + h, h::H] = alpha[..., k, :, h]
    return Matrices(A_m=A_m, A_r=np.eye(n), B=written)

  return site


def head_weights(X: np.ndarray, q: np.ndarray, gamma: np.ndarray, eps: float) -> np.ndarray:
  """Computes `softmax_i <q_h, (gamma * rmsnorm(s_i))_h>`, with the norm over a whole source s_i.

  Args:
    X: sources `[..., n, w]`, each split into its H heads.
    q: queries `[v, H, w]`.
    gamma: scale of the norm, `[H, w]`.
    eps: epsilon of the norm.

  Returns:
    Weights `[..., n / H, v, H]`.
  """
  H, w = gamma.shape
  sources = X.reshape(*X.shape[:-2], -1, H * w)
  keys = normalise(sources, "rmsnorm", eps, gamma.reshape(-1))
  scores = np.einsum("...ihw,vhw->...ivh", keys.reshape(*keys.shape[:-1], H, w), q)
  scores = np.exp(scores - np.max(scores.real, axis=-3, keepdims=True))
  return scores / np.sum(scores, axis=-3, keepdims=True)


REFERENCES: dict[type[Connection], Callable[..., Site]] = {
  PartitionedHC: partitioned,
  MultiHeadAttentionResiduals: multi_head_attention_residuals,
}
