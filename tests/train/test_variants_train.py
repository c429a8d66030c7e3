"""Every variant trains for a few steps in a tiny quickstart model, without a NaN."""

import pathlib

import jax
import numpy as np
import pytest

from hc_jax.config import load_config
from hc_jax.connections import CONNECTIONS
from hc_jax.train import read_metrics, train_and_evaluate
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("one_device")

VARIANTS = sorted((tiny.ROOT / "configs" / "variants").glob("*.py"))
STEPS = 3
FLAGS = {
  key: value for key, value in tiny.FLAGS.items() if not key.startswith("model.connection.")
} | {
  "model.num_layers": 1,
  "model.max_length": 16,
  "model.dropout": 0.0,
  "data.length": 16,
  "train.num_steps": STEPS,
  "train.batch_size": 4,
  "train.eval_every": 0,
  "train.checkpoint_every": STEPS,
  "optim.warmup_steps": 0,
}


def losses(path: pathlib.Path, workdir: pathlib.Path) -> tuple[list[float], dict]:
  """Trains; returns the loss of every step, and the parameters at the end."""
  config = load_config(str(path), [f"--config.{key}={value}" for key, value in FLAGS.items()])
  state = train_and_evaluate(config, str(workdir))
  rows = [row for row in read_metrics(str(workdir)) if "train/loss" in row]
  return [row["train/loss"] for row in rows], state.params


STRUCTURES = ("dhc", "ghc", "mhc")  # as in tests/test_conformance.py


def marked(path):
  mark = pytest.mark.slow if path.stem in STRUCTURES else pytest.mark.exhaustive
  return pytest.param(path, marks=mark, id=path.stem)


@pytest.mark.parametrize("path", [marked(path) for path in VARIANTS])
def test_a_variant_trains(path, tmp_path):
  found, params = losses(path, tmp_path / "run")
  assert len(found) == STEPS and np.all(np.isfinite(found))
  assert found[-1] < found[0] - 0.12, found  # batches alone give 0.07, learning gives 0.27
  for leaf in jax.tree.leaves(params):
    assert np.all(np.isfinite(leaf))


def test_every_variant_is_trained():
  names = {load_config(str(path)).model.connection.name for path in VARIANTS}
  mine = {name for name, cls in CONNECTIONS.items() if cls.__module__.startswith("hc_jax.")}
  assert names == mine
