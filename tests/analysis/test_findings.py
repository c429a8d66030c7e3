"""Tests of the findings in known networks, and in networks built to have them."""

import numpy as np
import pytest

from hc_jax.analysis import findings, unfold

PRE_NORM = np.tril(np.ones((9, 9)))


def found(matrix, name, fractions=1):
  return findings.from_matrix(matrix, fractions)[name]


def test_known_networks():
  known = {name: findings.from_matrix(c) for name, c in unfold.baselines(8).items()}
  assert known["Pre-Norm"]["Λ shape"].value == known["Pre-Norm"]["embedding weight"].value == 1
  assert known["Post-Norm"]["Λ shape"].value < 0.6
  assert known["Pre-Norm"]["parallel pairs"] == findings.Finding(0, "")
  assert known["PTB"]["parallel pairs"] == findings.Finding(4, "0-1, 2-3, 4-5, 6-7")


def test_a_lambda_shape():
  """Inputs of sites 6 and 7 and the output hold six outputs or more; half weight in between."""
  matrix = PRE_NORM.copy()
  for i in range(6, 9):
    matrix[i, 3 : i - 1] = 0.5
  assert found(matrix, "Λ shape").value == pytest.approx(2)
  matrix[6:, 1:3] = 0.25  # weak first layers: no Λ, however strong the near ones are
  assert found(matrix, "Λ shape").value == pytest.approx(0.5)
  assert np.isnan(found(PRE_NORM[:6, :6], "Λ shape").value)


def test_an_embedding_that_is_eliminated():
  matrix = PRE_NORM.copy()
  matrix[-1, 0], matrix[-1, 1] = -0.5, 9  # the absolute weight, relative to the mean of all layers
  assert found(matrix, "embedding weight").value == pytest.approx(0.5 / 2)


def test_parallel_pairs_are_used_later():
  matrix = PRE_NORM.copy()
  matrix[3, 3] = 0.4  # output of site 2 in the input of site 3
  assert found(matrix, "parallel pairs") == findings.Finding(1, "2-3")
  matrix[7, 7] = 0.49  # only the output of the network comes later
  assert found(matrix, "parallel pairs").which == "2-3, 6-7"
  matrix[:] = PRE_NORM
  matrix[3, 3], matrix[4:, 3] = 0, 0.05  # hardly used by any later site, so not a pair
  assert found(matrix, "parallel pairs").value == 0
  matrix[:] = PRE_NORM
  matrix[8, 8] = 0  # no site follows the last one
  assert found(matrix, "parallel pairs").value == 0


def test_fractions_count_by_blocks():
  """Two fractions that are never exchanged give the findings of one."""
  matrix = PRE_NORM.copy()
  matrix[3, 3], matrix[-1, 0] = 0.4, 0.3
  for name, one in findings.from_matrix(matrix).items():
    two = found(np.kron(matrix, np.eye(2)), name, 2)
    assert two.value == pytest.approx(one.value) and two.which == one.which


def network(fractions=1):
  rng = np.random.default_rng(0)
  matrices = np.tril(np.ones((5, 5))) * rng.uniform(0.5, 1.5, (3, 5, 5))
  return np.kron(matrices, np.eye(fractions)), [rng.normal(size=(3, 4)) for _ in range(5)]


@pytest.mark.parametrize("fractions", [1, 2])
def test_sizes_of_parts(fractions):
  matrices, sources = network(fractions)
  size = findings.part_sizes(matrices, sources)
  single = matrices[:, ::fractions, ::fractions]
  for i, j in ((4, 0), (2, 1)):
    inputs = np.einsum("tj,tjd->td", single[:, i], np.stack(sources, 1))
    part = single[:, i, j, None] * sources[j]
    rms = [np.sqrt(np.square(x).sum(-1).mean()) for x in (part, inputs)]
    assert size[i, j] == pytest.approx(rms[0] / rms[1])
  assert findings.from_tokens(matrices, sources)["embedding size"].value == size[4, 0]


def test_wasted_layers():
  matrices, sources = network()
  assert findings.from_tokens(matrices, sources)["wasted layers"] == findings.Finding(0, "")
  sources[2] = 1e-3 * sources[2]  # a tiny output
  matrices[:, 4, 4] = 1e-3  # and an output that nothing reads
  assert findings.from_tokens(matrices, sources)["wasted layers"] == findings.Finding(2, "1, 3")
  matrices[:, 3, 2] = 1e4
  assert findings.from_tokens(matrices, sources)["wasted layers"].which == "3"
  matrices, sources = network()
  matrices[:, 1:, 1] = 0
  matrices[:, 2, 1] = 0.15  # used a little by one input of four, so not wasted
  size = findings.part_sizes(matrices, sources)[1:, 1]
  assert size.mean() < findings.WASTED < size.max()
  assert findings.from_tokens(matrices, sources)["wasted layers"].value == 0
