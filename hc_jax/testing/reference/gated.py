"""Float64 NumPy references of mHC, its relatives and gated residuals, from the papers' equations.

Letters and orientation are those of mHC: `X_next = H_res X + H_post^T F(H_pre X)`, where all three
matrices are computed from `vec(X)`. Functions accept complex numbers too.
"""

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np

from hc_jax.connections import (
  MHC,
  GatedConnection,
  GatedResidual,
  KromHC,
  MHCLite,
  OrthogonalHC,
  PerStreamMHC,
)
from hc_jax.testing.reference.hyper import Matrices, normalise
from hc_jax.testing.reference.mixers import MIXERS, mix_of

Params = Mapping[str, np.ndarray]


def gated(connection: GatedConnection, params: Params, index: int) -> Callable:
  """Returns the matrices of mHC (2512.24880 Eq. 7 and 8) and of variants that change only H_res."""
  del index
  n, v = connection.num_streams, connection.num_views
  v4 = isinstance(connection, MHC) and connection.form == "deepseek_v4"

  def site(H: np.ndarray) -> Matrices:
    X = H.reshape(*H.shape[:-2], -1)
    x = X / np.sqrt(np.mean(X * X, axis=-1, keepdims=True) + connection.norm_eps)
    if "norm_scale" in params:
      x = x * params["norm_scale"].reshape(-1)

    def logits(name: str) -> np.ndarray:
      phi, b = params[f"{name}_kernel"], params[f"{name}_bias"]
      alpha = params.get(f"{name}_scale", np.full(1, connection.gate_scale_init))
      return alpha[0] * (x @ phi.reshape(-1, phi.shape[-1])) + b

    H_pre, H_res = np.ones((v, 1)), np.eye(n)
    if n > 1:
      H_pre = sigmoid(logits("read")).reshape(*X.shape[:-1], v, n) + (1e-6 if v4 else 0)
    if "mix_kernel" in params:
      H_res = residual_matrix(connection, logits("mix"))
    H_post = 2 * sigmoid(logits("write"))
    return Matrices(
      A_m=np.swapaxes(H_pre, -1, -2), A_r=np.swapaxes(H_res, -1, -2), B=H_post[..., None, :]
    )

  return site


def per_stream_mhc(connection: PerStreamMHC, params: Params, index: int) -> Callable:
  """Returns the matrices of mHC as in the PyTorch package hyper-connections.

  They are HC's matrices (2409.19606 Eq. 10-13) under constraints. The package's `alpha` is
  [A_m | A_r], and Sinkhorn is applied to A_r, not to A_r^T.
  """
  del index
  n, v = connection.num_streams, connection.num_views
  A_m, A_r, B = (params[f"static_{name}"].T for name in ("read", "mix", "write"))
  eps = 1e-5 if connection.norm_eps is None else connection.norm_eps

  def site(H: np.ndarray) -> Matrices:
    free = [A_m, A_r, B]
    if connection.dynamic:
      normed = normalise(H, connection.norm, eps, params.get("norm_scale"), params.get("norm_bias"))
      W = np.split(params["dynamic_kernel"], [v, v + n], axis=-1)
      read, mix, write = (
        params[f"{name}_scale"][0] * (np.tanh if connection.tanh else np.asarray)(normed @ w)
        for name, w in zip(("read", "mix", "write"), W, strict=True)
      )
      free = [A_m + read, A_r + mix, B + np.swapaxes(write, -1, -2)]
    return Matrices(
      A_m=sigmoid(free[0]), A_r=sinkhorn(free[1], connection.sinkhorn_steps), B=2 * sigmoid(free[2])
    )

  return site


def gated_residual(connection: GatedResidual, params: Params, index: int) -> Callable:
  """Returns the matrices of 2608.30320 Eq. 30-34, from the concatenated streams."""
  del index
  W_down, W_up = params["down_kernel"], params["up_kernel"]
  r, v, n, d = W_up.shape
  W_inj = params.get("write_kernel", np.zeros((n, d, n)))  # absent at the end, which never writes

  def site(H: np.ndarray) -> Matrices:
    rms = np.sqrt(np.mean(H * H, axis=-1, keepdims=True) + connection.norm_eps)
    gain = (1 + params["norm_gamma"]) / rms
    long = (gain * H).reshape(*H.shape[:-2], n * d)
    z = long @ W_down.reshape(n * d, r) / n
    G = sigmoid((z * sigmoid(z)) @ W_up.reshape(r, v * n * d)).reshape(*H.shape[:-2], v, n, d)
    s = 2 * sigmoid(long @ W_inj.reshape(n * d, n) / n)
    weights = G * gain[..., None, :, :] / n
    A_m = np.swapaxes(np.mean(weights, axis=-1), -1, -2)
    return Matrices(A_m=A_m, A_r=np.eye(n), B=s[..., None, :], channels=weights)

  return site


def residual_matrix(connection: GatedConnection, z: np.ndarray) -> np.ndarray:
  """Computes H_res `[..., n, n]` of one variant from its logits `[..., K]`."""
  n = connection.num_streams
  if isinstance(connection, MHC):
    Z = z.reshape(*z.shape[:-1], n, n)
    if connection.form == "deepseek_v4":
      return np.swapaxes(comb(np.swapaxes(Z, -1, -2), connection.sinkhorn_steps), -1, -2)
    return sinkhorn(Z, connection.sinkhorn_steps)
  if isinstance(connection, MHCLite):
    return permutations(z, n)
  if isinstance(connection, KromHC):
    return kronecker(z)
  if isinstance(connection, OrthogonalHC):
    return quaternions(z)
  if isinstance(connection, MIXERS):
    return mix_of(connection, z)
  raise KeyError(f"{type(connection).__name__} has no float64 reference of its mix")


def sigmoid(z: np.ndarray) -> np.ndarray:
  """Computes the logistic function."""
  return 1 / (1 + np.exp(-z))


def softmax(z: np.ndarray, axis: int = -1) -> np.ndarray:
  """Computes softmax over one axis, shifted by the largest real part, which changes no result."""
  e = np.exp(z - np.max(z.real, axis=axis, keepdims=True))
  return e / np.sum(e, axis=axis, keepdims=True)


def sinkhorn(Z: np.ndarray, steps: int = 20) -> np.ndarray:
  """Computes 2512.24880 Eq. 9: `exp(Z)`, then `steps` times columns and rows over their sums."""
  M = np.exp(Z - np.max(Z.real, axis=(-1, -2), keepdims=True))
  for _ in range(steps):
    M = M / np.sum(M, axis=-2, keepdims=True)
    M = M / np.sum(M, axis=-1, keepdims=True)
  return M


def comb(Z: np.ndarray, steps: int = 20, eps: float = 1e-6) -> np.ndarray:
  """Computes DeepSeek-V4's `comb`, which is applied as `x_next[k] = sum_j comb[j, k] x[j]`."""
  M = softmax(Z, -1) + eps
  M = M / (np.sum(M, axis=-2, keepdims=True) + eps)
  for _ in range(steps - 1):
    M = M / (np.sum(M, axis=-1, keepdims=True) + eps)
    M = M / (np.sum(M, axis=-2, keepdims=True) + eps)
  return M


def permutations(z: np.ndarray, n: int) -> np.ndarray:
  """Computes the mean of all permutations of streams, weighted by softmax(z) (2601.05732)."""
  a = softmax(z)
  H_res = np.zeros((*z.shape[:-1], n, n), z.dtype)
  for r, permutation in enumerate(itertools.permutations(range(n))):
    for i, j in enumerate(permutation):  # (P_r X)[i] = X[permutation[i]]
      H_res[..., i, j] += a[..., r]
  return H_res


def kronecker(z: np.ndarray) -> np.ndarray:
  """Computes the Kronecker product of KromHC (2601.21579) entry by entry.

  Factor k + 1 acts on bit k of the stream's number.
  """
  K = z.shape[-1] // 2
  stay = [softmax(z[..., 2 * k : 2 * k + 2])[..., 0] for k in range(K)]
  entries = [
    math.prod(stay[k] if (i ^ j) >> k & 1 == 0 else 1 - stay[k] for k in range(K))
    for i in range(2**K)
    for j in range(2**K)
  ]
  return np.stack(entries, axis=-1).reshape(*z.shape[:-1], 2**K, 2**K)


def quaternions(z: np.ndarray) -> np.ndarray:
  """Computes the rotation of oHC (2609.02672): column j is `q e_j conj(r)` in quaternions."""
  one = np.array([1.0, 0, 0, 0])

  def unit(v):
    return v / np.sqrt(np.sum(v * v, axis=-1, keepdims=True))

  q, r = unit(one + z[..., :4]), unit(one + z[..., 4:])
  conjugate = r * np.array([1.0, -1, -1, -1])
  columns = [hamilton(hamilton(q, np.eye(4)[j]), conjugate) for j in range(4)]
  return np.stack(columns, axis=-1)


def hamilton(p: np.ndarray, q: np.ndarray) -> np.ndarray:
  """Computes the product of two quaternions `[..., 4]`, real part first."""
  a, u = p[..., :1], p[..., 1:]
  b, v = q[..., :1], q[..., 1:]
  real = a * b - np.sum(u * v, axis=-1, keepdims=True)
  cross = np.stack(
    [u[..., i - 2] * v[..., i - 1] - u[..., i - 1] * v[..., i - 2] for i in range(3)], axis=-1
  )
  return np.concatenate([np.broadcast_to(real, cross[..., :1].shape), a * v + b * u + cross], -1)
