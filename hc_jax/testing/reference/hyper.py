"""Float64 NumPy reference of hyper-connections, written only from the paper.

Letters and orientation are those of arXiv 2409.19606: `H [..., n, d]`, `A_m [..., n, 1]`,
`A_r [..., n, n]`, `B [..., 1, n]`; `table` has the other variants. The reference shares no code
with the JAX implementation and is slow on purpose. Functions accept complex numbers too, so that
complex steps give derivatives, exact to rounding.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Branch = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Matrices:
  """The parts of `HC = [[0, B], [A_m, A_r]]` (2409.19606 Eq. 1), with or without token axes.

  Attributes:
    A_m: `[..., n, v]`; v is 1 except with fractions (2511.11238) or several views.
    A_r: `[..., n, n]`.
    B: `[..., v, n]`.
    channels: `[..., v, n, d]`, weights of a read that differs by channel, whose mean over channels
      is `A_m`; None for other reads.
  """

  A_m: np.ndarray
  A_r: np.ndarray
  B: np.ndarray
  channels: np.ndarray | None = None


def initial(n: int, k: int) -> Matrices:
  """Returns the initial static matrices of sublayer k (from 0), with n streams (Eq. 14)."""
  eye = np.eye(n)
  return Matrices(A_m=eye[:, k % n : k % n + 1], A_r=eye, B=np.ones((1, n)))


def from_params(params: Mapping[str, Any], **options: Any) -> Callable[[np.ndarray], Matrices]:
  """Returns a function from H `[..., n, d]` to a sublayer's matrices.

  Args:
    params: parameters of one `HyperConnection` or `FracConnection` by name; real or complex. B of a
      `FracConnection` is a single row for all fractions here.
    **options: `tanh`, `norm` and `eps`, as for `dynamic`.
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
  """Computes the matrices of dynamic hyper-connections (2409.19606 Eq. 10-13).

  Args:
    H: streams `[..., n, d]`.
    static: static matrices, to which the dynamic part is added.
    W_m: `[d, v]`, weights of the dynamic A_m.
    W_r: `[d, n]`, weights of the dynamic A_r.
    W_beta: `[d]`, weights of the dynamic B.
    s_alpha: scale of the dynamic A_m and A_r.
    s_beta: scale of the dynamic B.
    gain: gain of the norm, `[d]`, or None.
    bias: bias of the norm, `[d]`, or None.
    tanh: whether tanh is applied to the dynamic part before scaling.
    norm: "layernorm" or "rmsnorm", applied to H.
    eps: epsilon of the norm.

  Returns:
    `Matrices` with the token axes of H.
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
  """Computes LayerNorm or RMSNorm over the last axis, by the textbook formula.

  Args:
    x: `[..., d]`.
    norm: "layernorm"; anything else is RMSNorm.
    eps: added to the variance or mean square.
    gain: factor `[d]`, or None.
    bias: summand `[d]`, or None.
  """
  mean = np.mean(x, axis=-1, keepdims=True) if norm == "layernorm" else 0.0
  variance = np.mean((x - mean) ** 2, axis=-1, keepdims=True)
  x = (x - mean) / np.sqrt(variance + eps)
  x = x if gain is None else x * gain
  return x if bias is None else x + bias


def sublayer(H: np.ndarray, m: Matrices, branch: Branch) -> np.ndarray:
  """Computes `B^T T(A_m^T H) + A_r^T H` (2409.19606 Eq. 2; 2511.11238 Eq. 6) for each token.

  Args:
    H: streams `[..., n, d / v]`.
    m: matrices of the sublayer.
    branch: layer T, from `[..., d]` to `[..., d]`.

  Returns:
    The next streams, shaped like H.
  """
  h = inputs(H, m)
  mixed = np.einsum("...ij,...id->...jd", m.A_r, H)
  y = branch(h.reshape(*h.shape[:-2], -1)).reshape(h.shape)
  return np.einsum("...oi,...od->...id", m.B, y) + mixed


def inputs(H: np.ndarray, m: Matrices) -> np.ndarray:
  """Computes the branch inputs `A_m^T H`, `[..., v, d]`, with `m.channels` if it is given."""
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
  """Runs a network by Algorithm 1: copies the embedding n times, runs sublayers, sums the rows.

  Args:
    x: embedding `[..., d]`.
    n: expansion rate, the number of streams.
    matrices: for each sublayer, a function from H to its matrices.
    branches: for each sublayer, its layer T with its norm.
    fractions: m. Stream j holds fraction j mod m of the width, and the end sums the copies of each
      fraction.

  Returns:
    `[..., d]`, before the final norm.

  Raises:
    ValueError: if `matrices` and `branches` differ in length.
  """
  H = copies(_number(x), n, fractions)
  for get, branch in zip(matrices, branches, strict=True):
    H = sublayer(H, get(H), branch)
  return collapse(H, fractions)


def copies(x: np.ndarray, n: int, fractions: int = 1) -> np.ndarray:
  """Copies `[..., d]` into n streams, `[..., n, d / m]`: stream j is fraction j mod m of x.

  Raises:
    ValueError: if m does not divide d.
  """
  parts = np.split(x, fractions, axis=-1)
  return np.stack([parts[j % fractions] for j in range(n)], axis=-2)


def collapse(H: np.ndarray, fractions: int = 1) -> np.ndarray:
  """Sums streams `[..., n, d / m]` into `[..., d]`, the fractions side by side.

  Each fraction is n / m times the mean of its streams j, those with the same j mod m.
  """
  n = H.shape[-2]
  means = [np.mean(H[..., k::fractions, :], axis=-2) for k in range(fractions)]
  return n / fractions * np.concatenate(means, axis=-1)


def unfold(matrices: Sequence[Matrices]) -> np.ndarray:
  """Computes each layer's input as weights of the embedding and earlier outputs (Eq. 20 and 27).

  Args:
    matrices: matrices of the K sublayers, static or of one token.

  Returns:
    `c [K + 1, K + 1]`, lower triangular. The input of sublayer k, from 0, is the sum over j <= k of
    `c[k, j] T_j`; T_0 is the embedding and T_{j+1} the output of sublayer j. The last row is the
    sum of the final streams.
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
  """Computes a gradient by complex steps, `Im f(x + i h) / h`, exact to rounding.

  Args:
    loss: function of named arrays that returns a number; must be analytic, without abs, conj or
      comparisons of its inputs.
    at: named real arrays at which the gradient is taken.

  Returns:
    A float64 array for each name, shaped like its input.
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
