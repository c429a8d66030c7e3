"""What the paper found in its networks, checked on this one and stated as numbers.

arXiv 2409.19606, section 4.5, reads four things off the unfolded matrices of a trained network: a
Λ shape (near layers and the first ones weigh more than those between), an embedding that is
eliminated from the output, pairs of layers that stand in parallel, and layers that are wasted. It
gives no thresholds; those here are ours and stand in `DEFINITIONS`, printed beside the numbers.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hc_jax.analysis.unfold import rebuild

ENDS = 2  # layers at either end of a row: one block
PARALLEL, WASTED, USED = 0.5, 0.05, 0.1

DEFINITIONS = {
  "Λ shape": f"min(near, first) / between: means of |C| over inputs of at least {3 * ENDS} layers; "
  f"near: the last {ENDS} of these, first: the lowest {ENDS}, between: the others. Over 1: Λ",
  "embedding weight": "|C| of the embedding in the output / mean of |C| of the layers in it. "
  "0: eliminated",
  "embedding size": "norm of the embedding's part in the output / norm of the output, rms over "
  "tokens",
  "parallel pairs": f"adjacent layers k, k+1 with |C[k+1, k]| < {PARALLEL} of the mean |C| of k in "
  f"later inputs, which is at least {USED} of the mean |C|; PTB has one a block",
  "wasted layers": f"layers whose part is under {100 * WASTED:.0f} % of every later input and of "
  "the output, norms as rms over tokens",
  "input similarity": "cosine of adjacent layer inputs, median over tokens, mean over layers",
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One number of one network.

  Attributes:
    value: NaN where it is not defined: too few layers, or no activations to measure.
    which: the layers it speaks of, counted from 1.
  """

  value: float
  which: str = ""


def from_matrix(matrix: np.ndarray, fractions: int = 1) -> dict[str, Finding]:
  """What the unfolded matrix alone says.

  Args:
    matrix: C(0) of `unfold`, its mean over tokens, `[(K + 1) m, (K + 1) m]`; its last row is the
      output.
    fractions: m. A block of m x m counts by its Frobenius norm.
  """
  m, size = fractions, len(matrix) // fractions
  blocks = matrix.reshape(size, m, size, m)
  weights = np.sqrt(np.square(blocks).sum((1, 3)))
  output = weights[-1]
  layers = output[1:].mean()
  pairs = _parallel_pairs(weights)
  return {
    "Λ shape": Finding(_lambda_shape(weights)),
    "embedding weight": Finding(float(output[0] / layers) if layers else float("nan")),
    "parallel pairs": Finding(len(pairs), ", ".join(f"{k}-{k + 1}" for k in pairs)),
  }


def from_tokens(matrices: np.ndarray, sources: Sequence[np.ndarray]) -> dict[str, Finding]:
  """What the matrices say of the outputs that went through them.

  Args:
    matrices: C(0) token by token, `[t, (K + 1) m, (K + 1) m]`.
    sources: the embedding and the layers' outputs, K + 1 of `[t, d]`.
  """
  size = part_sizes(matrices, sources)
  wasted = [k for k in range(1, len(size)) if size[k:, k].max() < WASTED]  # row k: input k + 1
  return {
    "embedding size": Finding(float(size[-1, 0])),
    "wasted layers": Finding(len(wasted), ", ".join(map(str, wasted))),
  }


def part_sizes(matrices: np.ndarray, sources: Sequence[np.ndarray]) -> np.ndarray:
  """How large each source's part is in each input: `[K + 1, K + 1]`.

  `rms_t |C_ij T_j| / rms_t |input_i|`; parts that cancel may exceed one. Arguments are those of
  `from_tokens`.
  """
  count = len(sources)
  t, rows, _ = matrices.shape
  m = rows // count
  parts = np.stack([np.asarray(x, np.float64).reshape(t, m, -1) for x in sources], axis=1)
  gram = parts @ parts.swapaxes(-1, -2)
  blocks = matrices.reshape(t, count, m, count, m)
  energy = np.einsum("tisjf,tjfg,tisjg->tij", blocks, gram, blocks, optimize=True).mean(0)
  inputs = np.square(rebuild(matrices, sources)).sum(-1).mean(-1)
  return np.sqrt(np.maximum(energy, 0) / np.maximum(inputs, 1e-30)[:, None])


def _lambda_shape(weights: np.ndarray) -> float:
  near, first, between = [], [], []
  for i, row in enumerate(weights):
    layers = row[1 : i + 1]  # outputs that this input can hold, without the embedding
    if len(layers) >= 3 * ENDS:
      first.append(layers[:ENDS].mean())
      between.append(layers[ENDS:-ENDS].mean())
      near.append(layers[-ENDS:].mean())
  if not between or not np.mean(between):
    return float("nan")
  return float(min(np.mean(near), np.mean(first)) / np.mean(between))


def _parallel_pairs(weights: np.ndarray) -> list[int]:
  """Layers k, from 1, that stand beside their successor and not before it."""
  size = len(weights)
  used = USED * weights[np.tril_indices(size)].mean()
  found = []
  for k in range(1, size - 1):
    later = weights[k + 1 :, k].mean()  # row k is the input of layer k + 1
    if later >= used and weights[k, k] < PARALLEL * later:
      found.append(k)
  return found
