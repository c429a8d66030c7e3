"""Float64 NumPy references of dense connections, each written from its equations.

Functions accept complex numbers too, so that derivatives can be taken by complex steps.
"""

from collections.abc import Callable, Mapping

import numpy as np

from hc_jax.connections.contrib import MUDD, DenseFormer
from hc_jax.testing.reference.hyper import Matrices, normalise

Params = Mapping[str, np.ndarray]
Site = Callable[[np.ndarray], Matrices]
DENSE = (DenseFormer, MUDD)


def dense_former(connection: DenseFormer, params: Params, index: int) -> Site:
  """Returns the matrices of DenseFormer (2402.02622 Section 3.1): `Y_i = sum_j alpha_ij X_j`."""
  alpha = params.get("static_read")
  return lambda H: Matrices(
    A_m=_sources(H, connection, alpha, index), A_r=np.eye(H.shape[-2]), B=_next(H, index)
  )


def mudd(connection: MUDD, params: Params, index: int) -> Site:
  """Returns the matrices of MUDD (2502.12170 Eq. 6): `A_i = GELU(RMSNorm(X_i) W1) W2 + a_i`.

  With norms (Eq. 10), the input is `Norm(sum_j A_ij Norm(X_j)) + X_i`.
  """
  size = connection.num_views * (index + 1)  # W1 is D x C(i + 1); the other columns are padding

  def site(H: np.ndarray) -> Matrices:
    A = None
    if index > 0:
      z = normalise(H[..., index, :], "rmsnorm", connection.norm_eps)
      z = z @ params["hidden_kernel"][:, :size]
      gelu = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
      A = np.tensordot(gelu, params["weights_kernel"][:size], axes=1) + params["static_read"]
    A_m = _sources(H, connection, A, index)
    if connection.normed and index > 0:
      A_m = _normed(H, A_m, params["read_scale"], connection.norm_eps)
      A_m[..., index, :] += 1
    return Matrices(A_m=A_m, A_r=np.eye(H.shape[-2]), B=_next(H, index))

  return site


def _normed(H: np.ndarray, A_m: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
  """Returns the weights of X_j in `scale * Norm(sum_j A_m[j] Norm(X_j))`."""
  U = np.einsum("...jv,...jd->...vd", A_m, normalise(H, "rmsnorm", eps))
  before = 1 / np.sqrt(np.mean(H**2, axis=-1) + eps)
  after = scale / np.sqrt(np.mean(U**2, axis=-1) + eps)
  return before[..., :, None] * A_m * after[..., None, :]


def _sources(
  H: np.ndarray, connection: DenseFormer, weights: np.ndarray | None, index: int
) -> np.ndarray:
  """Returns A_m from weights `[..., v, >= index + 1]` of X_0 .. X_index; the first input is X_0."""
  n, v = H.shape[-2], connection.num_views
  if index == 0:
    return np.repeat(np.eye(n)[:, :1], v, axis=1)
  A_m = np.zeros((*weights.shape[:-2], n, v), weights.dtype)
  for j in range(index + 1):
    A_m[..., j, :] = weights[..., j]
  return A_m


def _next(H: np.ndarray, index: int) -> np.ndarray:
  """Returns B, which writes the block's output into the next free stream."""
  B = np.zeros((1, H.shape[-2]))
  B[0, index + 1 :][:1] = 1
  return B
