"""Hyper-connections in float64 NumPy, written from the paper and from nothing else.

arXiv 2409.19606, in its own letters and orientation: `H [..., n, d]`, `A_m [..., n, 1]`,
`A_r [..., n, n]`, `B [..., 1, n]`; `table` has the other variants. It shares no
code with the JAX implementation and is slow on purpose. Complex numbers pass through, so that
derivatives can be taken by complex steps: exact to rounding, without writing one.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Branch = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Matrices:
  """The parts of `HC = [[0, B], [A_m, A_r]]` (Eq. 1), per token or static.

  `A_m [..., n, v]`, `A_r [..., n, n]`, `B [..., v, n]`; v is 1 but for fractions (2511.11238).
  `channels [..., v, n, d]` are the weights of a read by channel, of which `A_m` is the mean.
  """

  A_m: np.ndarray
  A_r: np.ndarray
  B: np.ndarray
  channels: np.ndarray | None = None


def initial(n: int, k: int) -> Matrices:
  """The static matrices of sublayer k before training (Eq. 14)."""
  eye = np.eye(n)
  return Matrices(A_m=eye[:, k % n : k % n + 1], A_r=eye, B=np.ones((1, n)))


def from_params(params: Mapping[str, Any], **options: Any) -> Callable[[np.ndarray], Matrices]:
  """A sublayer's matrices as a function of H, from this package's parameters.

  Args:
    params: of one `HyperConnection` or `FracConnection`, whose B is one row for all fractions here;
      numbers may be complex.
    **options: `tanh`, `norm` and `eps` of `dynamic`.
  """
  p = {name: _number(value) for name, value in params.items()}
  static = Matrices(A_m=p["static_read"].T, A_r=p["static_mix"].T, B=p["static_write"].T)
  if "dynamic_kernel" not in p:
    return lambda H: static
  n, v = static.A_m.shape
  kernel, scale = p["dynamic_kernel"], p["dynamic_scale"]
  weights = {"W_m": kernel[:, :v], "W_r": kernel[:, v : v + n], "W_beta": kernel[:, v + n]}
  scales = {"s_alpha": scale[0], "s_beta": scale[1]}
  affine = {"gain": p.get("norm_scale"), "bias": p.get("norm_bias")}
  return lambda H: dynamic(H, static, **weights, **scales, **affine, **options)


def dynamic(
  H: np.ndarray,
  static: Matrices,
  *,
  W_m: np.ndarray,
  W_r: np.ndarray,
  W_beta: np.ndarray,
  s_alpha: complex,
  s_beta: complex,
  gain: np.ndarray | None = None,
  bias: np.ndarray | None = None,
  tanh: bool = True,
  norm: str = "layernorm",
  eps: float = 1e-5,
) -> Matrices:
  """The matrices of dynamic hyper-connections (Eq. 10-13).

  Args:
    H: `[..., n, d]`.
    static: what is added to.
    W_m: `[d, v]`.
    W_r: `[d, n]`.
    W_beta: `[d]`.
    s_alpha: scale of A_m and A_r.
    s_beta: scale of B.
    gain: `[d]` or None, of the norm.
    bias: `[d]` or None, of the norm.
    tanh: squash the dynamic part.
    norm: "layernorm" or "rmsnorm".
    eps: of the norm.
  """
  normed = normalise(H, norm, eps, gain, bias)
  squash = np.tanh if tanh else lambda x: x
  return Matrices(
    A_m=s_alpha * squash(normed @ W_m) + static.A_m,
    A_r=s_alpha * squash(normed @ W_r) + static.A_r,
    B=s_beta * squash(normed @ W_beta)[..., None, :] + static.B,
  )


def normalise(
  x: np.ndarray,
  norm: str,
  eps: float,
  gain: np.ndarray | None = None,
  bias: np.ndarray | None = None,
) -> np.ndarray:
  """LayerNorm or RMSNorm over the last axis, as textbooks write them."""
  mean = np.mean(x, axis=-1, keepdims=True) if norm == "layernorm" else 0.0
  variance = np.mean((x - mean) ** 2, axis=-1, keepdims=True)
  x = (x - mean) / np.sqrt(variance + eps)
  x = x if gain is None else x * gain
  return x if bias is None else x + bias


def sublayer(H: np.ndarray, m: Matrices, branch: Branch) -> np.ndarray:
  """`B^T T(A_m^T H) + A_r^T H` (Eq. 2; 2511.11238 Eq. 6), token by token."""
  h = inputs(H, m)
  mixed = np.einsum("...ij,...id->...jd", m.A_r, H)
  y = branch(h.reshape(*h.shape[:-2], -1)).reshape(h.shape)
  return np.einsum("...oi,...od->...id", m.B, y) + mixed


def inputs(H: np.ndarray, m: Matrices) -> np.ndarray:
  """`A_m^T H`, or channel by channel where weights are: `[..., v, d]`."""
  if m.channels is None:
    return np.einsum("...ij,...id->...jd", m.A_m, H)
  return np.einsum("...vid,...id->...vd", m.channels, H)


def network(
  x: np.ndarray,
  n: int,
  matrices: Sequence[Callable[[np.ndarray], Matrices]],
  branches: Sequence[Branch],
  fractions: int = 1,
) -> np.ndarray:
  """Algorithm 1: copy the embedding n times, run the sublayers, sum the rows.

  Args:
    x: `[..., d]`.
    n: expansion rate.
    matrices: each sublayer's matrices as a function of H.
    branches: each sublayer's layer T, its norm included.
    fractions: m; stream j holds fraction j mod m of the width, and each fraction's copies are
      summed, as if there were n / m of each.

  Returns:
    `[..., d]`, before the final norm.
  """
  H = copies(_number(x), n, fractions)
  for get, branch in zip(matrices, branches, strict=True):
    H = sublayer(H, get(H), branch)
  return collapse(H, fractions)


def copies(x: np.ndarray, n: int, fractions: int = 1) -> np.ndarray:
  """`[..., d]` -> `[..., n, d / m]`: row j is fraction j mod m, the whole where m is 1."""
  parts = np.split(x, fractions, axis=-1)
  return np.stack([parts[j % fractions] for j in range(n)], axis=-2)


def collapse(H: np.ndarray, fractions: int = 1) -> np.ndarray:
  """`[..., n, d / m]` -> `[..., d]`: each fraction's rows summed, as if it had n / m of them."""
  n = H.shape[-2]
  means = [np.mean(H[..., k::fractions, :], axis=-2) for k in range(fractions)]
  return n / fractions * np.concatenate(means, axis=-1)


def unfold(matrices: Sequence[Matrices]) -> np.ndarray:
  """What each layer's input is made of (Eq. 20 and 27).

  Args:
    matrices: of sublayers 1 .. K, static or those of one token.

  Returns:
    `[K + 1, K + 1]`, lower triangular: the input of sublayer k (row k - 1) is the sum over j < k of
    `c[k - 1, j] T_j`, where T_0 is the embedding and T_j the output of sublayer j. The last row is
    the sum of the final streams.
  """
  n = matrices[0].A_r.shape[-1]
  writes = [np.ones((1, n)), *(m.B for m in matrices)]
  reads = [*(m.A_m for m in matrices), np.ones((n, 1))]
  out = np.zeros((len(reads), len(reads)), np.result_type(*reads))
  for k, read in enumerate(reads):
    carried = read  # (prod_{t = j + 1}^{k - 1} A_r^t) A_m^k, built from the right
    for j in range(k, -1, -1):
      out[k, j] = (writes[j] @ carried).item()
      if j > 0:
        carried = matrices[j - 1].A_r @ carried
  return out


def gradient(
  loss: Callable[[Mapping[str, np.ndarray]], complex], at: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """The gradient of a real function by complex steps: `Im f(x + i h) / h`, exact to rounding.

  Args:
    loss: of named arrays; must be analytic (no abs, no conj, no comparison).
    at: where.
  """
  step, grads = 1e-30, {}
  for name, value in at.items():
    grad = np.zeros(np.shape(value))
    for index in np.ndindex(grad.shape):
      moved = np.array(value, np.complex128)
      moved[index] += 1j * step
      grad[index] = np.imag(loss({**at, name: moved})) / step
    grads[name] = grad
  return grads


def _number(x: Any) -> np.ndarray:
  x = np.asarray(x)
  return x if np.iscomplexobj(x) else x.astype(np.float64)
