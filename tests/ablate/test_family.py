"""Tests that the sweep over the whole family runs, with a tiny model for each variant."""

import importlib
import json
import pathlib

import pytest

from hc_jax import cli
from hc_jax.ablate import load_sweep
from hc_jax.connections import CONNECTIONS
from hc_jax.models import make_model
from tests.train import tiny

FAMILY = pathlib.Path(__file__).parents[2] / "configs" / "ablations" / "family.py"
SMOKE = {
  "model.d_model": 16,
  "model.num_layers": 2,
  "model.num_heads": 2,
  "model.max_length": 16,
  "data.length": 16,
  "train.batch_size": 4,
  "train.num_steps": 2,
  "train.eval_every": 2,
  "train.eval_batches": 1,
}


def test_the_arms_of_contrib_are_models_too():
  before = dict(CONNECTIONS)
  try:
    importlib.reload(importlib.import_module("hc_jax.connections.contrib.table"))
    sweep = load_sweep(str(FAMILY))
    assert {"cayley", "partitioned", "multi_head_attn_res", "dense_former"} <= set(sweep.arms)
    for arm in set(sweep.arms) - set(before):
      config = sweep.base.copy_and_resolve_references()
      config.update_from_flattened_dict(sweep.arms[arm])
      make_model(config.model, vocab_size=257)
  finally:
    CONNECTIONS.clear()
    CONNECTIONS.update(before)


@pytest.mark.exhaustive  # because a model is compiled for every arm
def test_every_arm_of_the_family_is_trained_and_reported(tmp_path):
  flags = [f"--config.{key}={value}" for key, value in SMOKE.items()]
  with tiny.tiny_text():
    assert cli.main(["ablate", str(FAMILY), "--seeds=0,1", f"--out={tmp_path}", *flags]) == 0
  rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
  ours = {name for name, cls in CONNECTIONS.items() if cls.__module__.startswith("hc_jax.")}
  arms = {row["arm"] for row in rows}
  assert {"dhc4", "shc4", "mhc-uniform", "mhc-identity"} | ours - {"hc", "mhc"} <= arms
  report = (tmp_path / "report.md").read_text()
  assert all(f"| `{arm}` |" in report for arm in arms)
