"""Float64 NumPy references of the mixes of `hc_jax.connections.contrib`, from their definitions.

Functions accept complex numbers too, so that derivatives can be taken by complex steps.
"""

import numpy as np

from hc_jax.connections.contrib import CayleyHC, ContinuousHC, NewtonHC, SpectralSphereHC

MIXERS = (CayleyHC, ContinuousHC, NewtonHC, SpectralSphereHC)


def mix_of(connection: object, z: np.ndarray) -> np.ndarray:
  """Computes H_res `[..., n, n]` of one of `MIXERS` from its logits `[..., K]`."""
  n = connection.num_streams
  if isinstance(connection, CayleyHC):
    return rotation(z, n)
  if isinstance(connection, SpectralSphereHC):
    return spectral(z, n)
  if isinstance(connection, NewtonHC):
    return balanced(z.reshape(*z.shape[:-1], n, n))
  return flow(z, n)


def rotation(z: np.ndarray, n: int) -> np.ndarray:
  """Computes the Cayley transform `(I - A)(I + A)^-1`; z holds A above its diagonal."""
  A = np.zeros((*z.shape[:-1], n, n), z.dtype)
  pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
  for k, (i, j) in enumerate(pairs):
    A[..., i, j], A[..., j, i] = z[..., k], -z[..., k]
  return (np.eye(n) - A) @ np.linalg.inv(np.eye(n) + A)


def spectral(z: np.ndarray, n: int) -> np.ndarray:
  """Computes the mix of 2603.20896: the mean, plus `U S V^T` on its orthogonal complement."""
  k = (n - 1) * (n - 2) // 2
  U, V = rotation(z[..., :k], n - 1), rotation(z[..., k : 2 * k], n - 1)
  # The Helmert basis: e_1 - e_2, e_1 + e_2 - 2 e_3, ..., normalised.
  rows = [[1.0] * i + [-i] + [0.0] * (n - 1 - i) for i in range(1, n)]
  Z = np.array([row / np.linalg.norm(row) for row in np.array(rows)]).T.reshape(n, n - 1)
  S = np.tanh(z[..., 2 * k :])[..., None] * np.eye(n - 1)
  return np.full((n, n), 1 / n) + Z @ U @ S @ np.swapaxes(V, -1, -2) @ Z.T


def balanced(R: np.ndarray) -> np.ndarray:
  """Computes the doubly stochastic `diag(e^a) e^R diag(e^b)` (2606.07574) by Newton's method.

  Row and column conditions are solved together for a and b. One condition follows from the others,
  so that b_n stays fixed.
  """
  n = R.shape[-1]
  start = np.real(R)
  for _ in range(200):  # Sinkhorn steps, because Newton's method converges only from nearby
    start = start - np.log(np.sum(np.exp(start), axis=-1, keepdims=True))
    start = start - np.log(np.sum(np.exp(start), axis=-2, keepdims=True))
  u = start - np.real(R)  # a_i + b_j
  a, b = u[..., :, 0], u[..., 0, :] - u[..., 0:1, 0]
  for _ in range(30):
    P = np.exp(R + a[..., :, None] + b[..., None, :])
    rows, columns = P.sum(-1), P.sum(-2)
    top = np.concatenate([rows[..., None] * np.eye(n), P], axis=-1)
    low = np.concatenate([np.swapaxes(P, -1, -2), columns[..., None] * np.eye(n)], axis=-1)
    J = np.concatenate([top, low], axis=-2)
    J[..., 2 * n - 1, :] = 0  # replaces the redundant condition by a fixed b_n
    J[..., 2 * n - 1, 2 * n - 1] = 1
    wrong = np.concatenate([rows - 1, columns - 1], axis=-1)
    wrong[..., 2 * n - 1] = 0
    move = np.linalg.solve(J, wrong[..., None])[..., 0]
    a, b = a - move[..., :n], b - move[..., n:]
  return np.exp(R + a[..., :, None] + b[..., None, :])


def flow(z: np.ndarray, n: int) -> np.ndarray:
  """Computes the exponential of `t_c (M - M^T) - t_d R R^T / sqrt n` by its power series."""
  M, R = (z[..., k * n * n : (k + 1) * n * n].reshape(*z.shape[:-1], n, n) for k in range(2))
  t = 0.001 + 0.999 / (1 + np.exp(-z[..., 2 * n * n :]))
  turn = M - np.swapaxes(M, -1, -2)
  A = t[..., :1, None] * turn - t[..., 1:, None] * R @ np.swapaxes(R, -1, -2) / np.sqrt(n)
  total = term = np.broadcast_to(np.eye(n), A.shape).astype(A.dtype)
  for k in range(1, 80):
    term = term @ A / k
    total = total + term
  return total
