"""Table of the float64 NumPy references of all variants, each written from its paper.

`matrices_of(connection, params, index)` returns a site's matrices as a function of its streams.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hc_jax.connections import (
  MHC,
  AltUp,
  AttentionResiduals,
  Connection,
  DeltaAttentionResiduals,
  FracConnection,
  GatedConnection,
  GatedResidual,
  GeneralizedHyperConnection,
  HyperConnection,
  IdentityHC,
  KromHC,
  MHCLite,
  OrthogonalHC,
  PerStreamMHC,
  Residual,
  SimplifiedAltUp,
  SinglePassMHC,
  X0Lambdas,
)
from hc_jax.connections.contrib import MUDD, DenseFormer
from hc_jax.connections.per_stream import PerStreamConnection
from hc_jax.testing.reference import contrib as reference_contrib
from hc_jax.testing.reference.dense import DENSE, dense_former, mudd
from hc_jax.testing.reference.gated import gated, gated_residual, per_stream_mhc
from hc_jax.testing.reference.hyper import Matrices, from_params, initial, normalise
from hc_jax.testing.reference.mixers import MIXERS

Params = Mapping[str, np.ndarray]
Site = Callable[[np.ndarray], Matrices]


def residual(connection: Residual, params: Params, index: int) -> Site:
  """Returns the matrices of `x + T(x)` (2409.19606 Eq. 15)."""
  del connection, params, index
  return lambda H: initial(1, 0)


def per_stream(connection: PerStreamConnection, params: Params, index: int) -> Site:
  """Returns the matrices of HC (2409.19606 Eq. 10-13) or Frac (2503.14125 Eq. 11-14).

  In Frac, each fraction of the output is written only to the streams of that fraction.
  """
  del index
  n, m = connection.num_streams, connection.fractions
  own = np.array([[float(j % m == k) for j in range(n)] for k in range(m)])  # [m, n], as B
  matrices = from_params(params, tanh=connection.tanh, **_norm(connection))

  def site(H: np.ndarray) -> Matrices:
    found = matrices(H)
    return dataclasses.replace(found, B=found.B * own)

  return site


def generalized(connection: GeneralizedHyperConnection, params: Params, index: int) -> Site:
  """Returns the matrices of GHC (2511.11238 Eq. 6)."""
  del index
  A_m, A_r, B = (params[f"static_{name}"].T for name in ("read", "mix", "write"))
  if not connection.dynamic:
    return lambda H: Matrices(A_m=A_m, A_r=A_r, B=B)
  n, v = A_m.shape
  W_m, W_r, W_beta = np.split(params["dynamic_kernel"], [v, v + n], axis=-1)
  s_m, s_r, s_beta = (params[f"{name}_scale"].T for name in ("read", "mix", "write"))
  gain, bias = params.get("norm_scale"), params.get("norm_bias")
  squash = np.tanh if connection.tanh else lambda x: x

  def site(H: np.ndarray) -> Matrices:
    normed = normalise(H, **_norm(connection), gain=gain, bias=bias)
    tau = np.sqrt(H.shape[-1])
    return Matrices(
      A_m=s_m * squash(normed @ W_m / tau) + A_m,
      A_r=s_r * squash(normed @ W_r / tau) + A_r,
      B=s_beta * np.swapaxes(squash(normed @ W_beta / tau), -1, -2) + B,
    )

  return site


def _norm(connection: PerStreamConnection) -> dict[str, Any]:
  eps = 1e-5 if connection.norm_eps is None else connection.norm_eps
  return {"norm": connection.norm or "layernorm", "eps": eps}


def altup(connection: AltUp, params: Params, index: int) -> Site:
  """Returns the matrices of AltUp (2301.13310), by applying its three steps to unit blocks."""
  n = connection.num_streams
  j = index % n
  P, g = params["static_predict"], params["static_gate"][:, 0]

  def next_blocks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    predicted = P @ x
    computed = x[j] + y
    return predicted + g[:, None] * (computed - predicted[j])[None, :]

  A_m = np.eye(n)[:, [j]]
  A_r = next_blocks(np.eye(n), np.zeros(n)).T
  B = next_blocks(np.zeros((n, 1)), np.ones(1)).T
  return lambda H: Matrices(A_m=A_m, A_r=A_r, B=B)


def altup_simplified(connection: SimplifiedAltUp, params: Params, index: int) -> Site:
  """Returns the matrices of simplified AltUp (2608.30320, known to us from a summary)."""
  n = connection.num_streams
  B = np.zeros((1, n))
  B[0, index % n] = 1.0
  return lambda H: Matrices(A_m=params["static_read"].T, A_r=np.eye(n), B=B)


def x0_lambdas(connection: X0Lambdas, params: Params, index: int) -> Site:
  """Returns the matrices of nanochat's `x = lambda x + mu x0` before a block, with `backout`."""
  n, per_block = connection.num_streams, connection.sites_per_block or 1
  A_r, to_state = np.eye(n), np.eye(1, n)
  if "lambdas" not in params:
    return lambda H: Matrices(A_m=to_state.T, A_r=A_r, B=to_state)
  A_r = A_r.astype(params["lambdas"].dtype)
  A_r[:2, 0] = params["lambdas"]  # column i holds the weights of stream i afterwards
  middle = connection.backout_block
  if middle is None:
    middle = connection.num_sites // per_block // 2 + 1
  if connection.backout and index // per_block == middle:
    A_r[:, 2] = [1, 0, 0]
  return lambda H: Matrices(A_m=A_r[:, :1], A_r=A_r, B=to_state)


def attention_residuals(connection: AttentionResiduals, params: Params, index: int) -> Site:
  """Returns the matrices of block attention residuals (2603.15031).

  The sources are the finished blocks, and the unfinished block if it has begun.
  """
  B, n = connection.block_sites, connection.num_streams
  bank, here = 1 + index // B, 1 + index // B  # number of finished slots; slot that is written
  sources = list(range(bank)) + ([here] if index % B else [])
  A_r, written = np.eye(n), np.eye(n)[[here]]
  w, gamma = params["depth_query"], params["norm_scale"]

  def site(H: np.ndarray) -> Matrices:
    A_m = np.zeros((*H.shape[:-1], len(w)), np.result_type(H, w, gamma))
    A_m[..., sources, :] = depth_weights(H[..., sources, :], w, gamma, connection.norm_eps)
    return Matrices(A_m=A_m, A_r=A_r, B=written)

  return site


def delta_attention_residuals(
  connection: DeltaAttentionResiduals, params: Params, index: int
) -> Site:
  """Returns the matrices of delta attention residuals (2605.18855).

  The input is `h + g sum_i alpha_i Delta_i`, where h is the sum of the streams.
  """
  finished = 1 + index // connection.block_sites
  maps = attention_residuals(connection, params, index)
  w, gamma, g = (params[k] for k in ("depth_query", "norm_scale", "depth_gate"))

  def site(H: np.ndarray) -> Matrices:
    A_m = np.ones((*H.shape[:-1], len(w)), np.result_type(H, w, gamma, g))
    A_m[..., 1 + -(-index // connection.block_sites) :, :] = 0  # these slots are still empty
    if index > 0:
      alpha = depth_weights(H[..., :finished, :], w, gamma, connection.norm_eps)
      A_m[..., :finished, :] += g * alpha
    return dataclasses.replace(maps(H), A_m=A_m)

  return site


def depth_weights(V: np.ndarray, w: np.ndarray, gamma: np.ndarray, eps: float) -> np.ndarray:
  """Computes `softmax_j <gamma * w, rmsnorm(V[j])>`, `[..., n, v]`, from V `[..., n, d]`.

  The queries w are `[v, d]`.
  """
  scores = normalise(V, "rmsnorm", eps, gamma) @ w.T
  scores = np.exp(scores - np.max(scores.real, axis=-2, keepdims=True))
  return scores / np.sum(scores, axis=-2, keepdims=True)


# The first class in the method resolution order that is in the table decides, so that subclasses
# inherit the reference of their parent.
REFERENCES: dict[type[Connection], Callable[..., Site]] = {
  Residual: residual,
  PerStreamConnection: per_stream,
  GeneralizedHyperConnection: generalized,
  AltUp: altup,
  SimplifiedAltUp: altup_simplified,
  X0Lambdas: x0_lambdas,
  AttentionResiduals: attention_residuals,
  DeltaAttentionResiduals: delta_attention_residuals,
  GatedConnection: gated,
  PerStreamMHC: per_stream_mhc,
  GatedResidual: gated_residual,
  DenseFormer: dense_former,
  MUDD: mudd,
  **reference_contrib.REFERENCES,
}


# _FOLLOWED: classes that a reference follows in every field. _MAKERS: attributes of a class that
# make its maps; a subclass that overrides one no longer computes what the reference does.
_FOLLOWED = (Residual, HyperConnection, FracConnection, GeneralizedHyperConnection, AltUp)
_FOLLOWED += (SimplifiedAltUp, X0Lambdas)
_FOLLOWED += (MHC, SinglePassMHC, IdentityHC, MHCLite, KromHC, OrthogonalHC, PerStreamMHC)
_FOLLOWED += MIXERS
_FOLLOWED += (*DENSE, *reference_contrib.REFERENCES)
_FOLLOWED += (AttentionResiduals, DeltaAttentionResiduals, GatedResidual)
_MAKERS = ("coefs", "declare", "generate", "finish", "num_mix_logits", "mix_of", "read_of")
_MAKERS += ("declare_scales", "scales_of", "write_columns", "_temperature", "eps", "last_source")
_MAKERS += ("maps", "place", "places", "choose")


def has_reference(connection: Connection) -> bool:
  """Returns whether a reference covers a connection's class, or a parent with the same maps."""
  cls = type(connection)
  parent = next((base for base in cls.__mro__ if base in _FOLLOWED), None)
  return parent is not None and all(
    getattr(cls, name, None) is getattr(parent, name, None) for name in _MAKERS
  )


def matrices_of(connection: Connection, params: Params, index: int = 0) -> Site:
  """Returns a function from a site's streams `[..., n, w]` to its `Matrices`.

  Args:
    connection: connection of the site; its fields choose the variant.
    params: parameters of the site by name, real or complex.
    index: number of the sublayer, from 0.

  Raises:
    KeyError: if neither the class of the connection nor a parent has a reference.
  """
  for cls in type(connection).__mro__:
    if cls in REFERENCES:
      params = {name: _number(value) for name, value in params.items()}
      return REFERENCES[cls](connection, params, index)
  raise KeyError(f"{type(connection).__name__} has no float64 reference")


def _number(x) -> np.ndarray:
  x = np.asarray(x)
  return x if np.iscomplexobj(x) else x.astype(np.float64)
