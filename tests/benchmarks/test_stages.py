"""benchmarks/stages.py compares what it says."""

import numpy as np
import pytest

from benchmarks import stages


def test_windows_come_together_again():
  x = np.arange(2 * 8 * 12 * 3, dtype=np.float32).reshape(2, 8, 12, 3)
  cut = stages.windows(x)
  assert cut.shape == (2, 2, 3, 16, 3)
  np.testing.assert_array_equal(cut[1, 0, 1, 4], x[1, 1, 4])  # second row, first column of a window
  np.testing.assert_array_equal(stages.together(cut), x)


def test_a_label_says_whether_both_halves_have_one_direction():
  batch = stages.Pictures(0, size=64)[3]
  assert batch["picture"].shape == (64, 8, 8, 1)
  assert set(batch["label"]) == {0.0, 1.0}
  np.testing.assert_array_equal(stages.Pictures(0, size=64)[3]["picture"], batch["picture"])
  assert not np.array_equal(stages.Pictures(0, size=64)[4]["picture"], batch["picture"])


@pytest.mark.exhaustive  # three models compile
def test_every_arm_is_trained_and_compared(tmp_path, capsys):
  stages.main(["--steps=4", "--seeds=2", "--streams=2", f"--out={tmp_path / 'out'}"])
  last = capsys.readouterr().out.splitlines()[-3:]
  assert [line.split()[0] for line in last] == ["residual", *stages.CROSSINGS]
