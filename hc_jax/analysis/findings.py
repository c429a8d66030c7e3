"""Findings: numbers for the patterns that the paper saw in its trained networks.

arXiv 2409.19606, section 4.5, describes four patterns in the unfolded matrices. In a Λ shape,
the nearest and the first layers weigh more than the layers between them. The embedding is
eliminated from the output. Some pairs of layers run in parallel. Some layers are wasted.

The paper gives no thresholds. The thresholds here are ours; `DEFINITIONS`, which is printed with
the numbers, states them.
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
  "parallel pairs": f"adjacent sites k, k+1 where |C| of k in the input of k+1 is under {PARALLEL} "
  f"of its mean in later inputs, which is at least {USED} of the mean |C|; PTB has one per block",
  "wasted layers": f"layers whose part is under {100 * WASTED:.0f} % of every later input and of "
  "the output, norms as rms over tokens",
  "input similarity": "cosine of adjacent layer inputs, median over tokens, mean over layers",
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """One number for one network.

  Attributes:
    value: the number; NaN if there are too few layers, or no activations to measure.
    which: the sites that were counted, by number; "" if the finding is not about single sites.
  """

  value: float
  which: str = ""


def from_matrix(matrix: np.ndarray, fractions: int = 1) -> dict[str, Finding]:
  """Computes the findings that need only the unfolded matrix: Λ shape, embedding weight and pairs.

  Args:
    matrix: token mean of C(0) from `unfold`, `[(K + 1) m, (K + 1) m]`; the last m rows are the
      output.
    fractions: m. Each m x m block is replaced by its Frobenius norm.

  Returns:
    A `Finding` by name, under names of `DEFINITIONS`.
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
  """Computes the findings that need activations: embedding size and wasted layers.

  Args:
    matrices: C(0) of each token, `[t, (K + 1) m, (K + 1) m]`.
    sources: K + 1 arrays `[t, d]`, the embedding and then the output of each layer.

  Returns:
    A `Finding` by name, under names of `DEFINITIONS`.
  """
  size = part_sizes(matrices, sources)
  # Column k + 1 is the output of site k, which the inputs from row k + 1 on can hold.
  wasted = [k for k in range(len(size) - 1) if size[k + 1 :, k + 1].max() < WASTED]
  return {
    "embedding size": Finding(float(size[-1, 0])),
    "wasted layers": Finding(len(wasted), ", ".join(map(str, wasted))),
  }


def part_sizes(matrices: np.ndarray, sources: Sequence[np.ndarray]) -> np.ndarray:
  """Computes the size of each source's part in each input, `rms_t |C_ij T_j| / rms_t |input_i|`.

  A part can be larger than one if parts cancel.

  Args:
    matrices: C(0) of each token, `[t, (K + 1) m, (K + 1) m]`.
    sources: K + 1 arrays `[t, d]`, the embedding and then the output of each layer.

  Returns:
    `[K + 1, K + 1]` float64, a row for each input (the last is the output), a column for each
    source.
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
  """Returns the sites k whose output later sites read, but site k + 1 hardly reads."""
  size = len(weights)
  used = USED * weights[np.tril_indices(size)].mean()
  found = []
  for k in range(size - 2):
    own = weights[k + 1 :, k + 1]  # column k + 1 is the output of site k, row k + 1 the next input
    later = own[1:].mean()
    if later >= used and own[0] < PARALLEL * later:
      found.append(k)
  return found
