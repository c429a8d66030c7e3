"""Fixtures: small sweeps, and results made without training."""

import dataclasses

import pytest

from hc_jax.ablate import Sweep
from hc_jax.ablate.running import records
from hc_jax.ablate.running.records import Curves, Result
from tests.train import tiny
from tests.train.conftest import one_device as one_device

RESIDUAL = {"model.connection.name": "residual"}
DHC = {"model.connection.name": "hc", "model.connection.num_streams": 2}


@pytest.fixture
def make_sweep():
  """Returns `make_sweep(arms=..., train__num_steps=...)`, of sweep fields and keys of the base."""

  def make(**changes):
    fields = {f.name for f in dataclasses.fields(Sweep)}
    given = {key: changes.pop(key) for key in list(changes) if key in fields}
    defaults = {"model__num_layers": 1, "train__num_steps": 4, "train__eval_every": 2}
    base = tiny.config(**defaults | {"train__checkpoint_every": 2} | changes)
    return Sweep(**{"base": base, "arms": {"residual": RESIDUAL, "dhc2": DHC}} | given)

  return make


def result(group, finals, diverged=(), **costs):
  """Returns a result with made-up numbers, with one run for each final loss."""
  curves = []
  for i, final in enumerate(finals):
    at = diverged[i] if diverged else None
    run = Curves(diverged=at)
    kept = [s for s in (1, 2, 3, 4) if at is None or s < at]
    even = [s for s in (0, *kept) if s % 2 == 0]
    run.train = {"step": kept, "loss": [final + 4 - s for s in kept]}
    run.val = {
      "step": even,
      "loss": [final + 4 - s for s in even],
      "seconds": [0.1 * s for s in even],
    }
    curves.append(run)
  known = {
    "params": 1000, "connection_params": 0, "flops_per_token": 5e3, "flops_of": "counted",
    "together": "2 seeds together", "step_seconds": 0.01, "step_cpu_seconds": 0.02,
    "tokens_per_s": 1e4, "training_seconds": 0.04, "compile_seconds": 1.0, "memory_bytes": 3e6,
    "memory_of": "planned",
  }  # fmt: skip
  seeds = list(range(len(finals)))
  provenance = {
    "started": "2026-01-01 00:00 UTC", "finished": "2026-01-01 00:01 UTC", "commit": "abc",
    "machine": "2 CPU cores", "cores": 2, "platform": "cpu", "load": 1.0, "jax": "1", "python": "3",
  }  # fmt: skip
  alike = [f"branches {seed}" for seed in seeds], [f"batch {seed}" for seed in seeds]
  return Result(group, seeds, curves, known | costs, *alike, "text", provenance)


@pytest.fixture
def no_pictures(monkeypatch):
  """Draws no pictures, because they take seconds and few tests need them."""
  monkeypatch.setattr("hc_jax.ablate.reporting.figures.draw", lambda *_: {})


@pytest.fixture
def no_training(monkeypatch):
  """Replaces training by final losses for each arm, and returns the list of trained arms."""
  trained, finals = [], {"residual": [2.0, 2.2], "dhc2": [1.9, 2.15]}

  def train_arm(sweep, group, out, log):
    trained.append(group.id)
    made = result(group, finals.get(group.arm, [2.1, 2.3]))
    records.save(out, made)
    return made

  monkeypatch.setattr("hc_jax.ablate.running.runner.train_arm", train_arm)
  return trained
