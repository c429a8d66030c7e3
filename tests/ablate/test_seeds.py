"""Tests that seeds trained together equal separate runs, and that arms are paired."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from hc_jax.ablate.running.arm import _program, train_arm
from hc_jax.ablate.running.one_by_one import train_one_by_one
from hc_jax.ablate.running.pairing import branch_digests
from hc_jax.ablate.running.together import train_together
from hc_jax.params import is_connection, named_leaves
from hc_jax.train import Stopped
from hc_jax.train.program import Steps

SEEDS = (3, 8)


class Signal:
  """A stop signal that arrives after a number of checks, or never."""

  name = "SIGTEST"

  def __init__(self, after=None):
    self.left = after

  @property
  def requested(self):
    if self.left is not None:
      self.left -= 1
    return self.left is not None and self.left < 0


def silent(line):
  del line


def program_of(sweep, arm=1):
  configs = [sweep.config(sweep.groups()[arm], seed) for seed in SEEDS]
  return configs, _program(configs, sweep, silent, silent)


def train_seeds(sweep, folder, stop=None, log=silent):
  folder.mkdir(exist_ok=True)  # as the runner makes it
  _, program = program_of(sweep)
  return train_together(program, str(folder), stop or Signal(), log)


@pytest.fixture
def sweep(make_sweep, one_device):
  # The loop must support the trainer's features: a loss in parts of the length, and accumulation.
  return make_sweep(seeds=SEEDS, train__accumulation=2, train__loss_parts=2)


@pytest.fixture
def whole(sweep, tmp_path):
  """Returns seeds that were trained to the end."""
  return train_seeds(sweep, tmp_path / "whole")


@pytest.mark.slow
def test_together_is_one_by_one(sweep, whole, tmp_path):
  configs, _ = program_of(sweep)
  single, measured = train_one_by_one(configs, str(tmp_path / "single"))
  for together, alone in zip(whole.curves, single, strict=True):
    assert together.train["step"] == alone.train["step"] == [1, 2, 3, 4]
    assert together.val["step"] == alone.val["step"] == [0, 2, 4]
    np.testing.assert_allclose(together.train["loss"], alone.train["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(together.val["loss"], alone.val["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(together.val["bpb"], alone.val["bpb"], rtol=0, atol=2e-5)
  assert whole.curves[0].train["loss"] != whole.curves[1].train["loss"]
  assert whole.costs["tokens_per_s"] > 0 and whole.costs["step_cpu_seconds"] > 0
  assert whole.costs["memory_bytes"] > 0 and measured["tokens_per_s"] > 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("last", [2, 3])  # step 2 makes a checkpoint anyway
def test_seeds_that_were_stopped_continue_to_the_same_numbers(sweep, whole, tmp_path, last):
  folder, lines = tmp_path / "stopped", []
  with pytest.raises(Stopped, match=f"by SIGTEST after step {last}"):
    train_seeds(
      sweep, folder, Signal(after=last + 1)
    )  # one check before the steps, and one for each step
  again = train_seeds(sweep, folder, log=lines.append)
  assert any(f"resumed at step {last}" in line for line in lines)
  for one, other in zip(whole.curves, again.curves, strict=True):
    assert one.train == other.train
    assert {k: v for k, v in one.val.items() if k != "seconds"} == {
      k: v for k, v in other.val.items() if k != "seconds"
    }
    assert other.val["seconds"] == sorted(other.val["seconds"])


@pytest.mark.slow
def test_the_states_are_bitwise_the_trainers(sweep):
  _, program = program_of(sweep)
  stacked = program.first_state()
  for i, seed in enumerate(SEEDS):
    one = dataclasses.replace(program, seeds=(seed,), together=False).first_state()
    for ours, theirs in zip(jax.tree.leaves(stacked), jax.tree.leaves(one), strict=True):
      np.testing.assert_array_equal(ours[i], theirs)


def test_arms_of_a_seed_begin_alike_and_see_the_same_batches(sweep):
  arms = [program_of(sweep, arm)[1] for arm in (0, 1)]
  params = [program.first_state().params for program in arms]
  plain, hyper = (dict(named_leaves(tree)) for tree in params)
  assert set(hyper) - set(plain) == {path for path in hyper if is_connection(path)} != set()
  for path, leaf in plain.items():
    np.testing.assert_array_equal(leaf, hyper[path], err_msg=path)
  digests = [branch_digests(tree, 2) for tree in params]
  assert digests[0] == digests[1] and digests[0][0] != digests[0][1]
  for seed in SEEDS:
    first, second = (program.task.train(seed) for program in arms)
    for step in (0, 1, 50):
      for name in first[step]:
        np.testing.assert_array_equal(first[step][name], second[step][name])


@pytest.mark.slow
def test_a_seed_that_diverges_is_recorded_and_the_other_goes_on(sweep, tmp_path, monkeypatch):
  step, take = 2, Steps.train

  def poisoned(self, state, batch):
    state, values = take(self, state, batch)
    if int(jax.device_get(state.step)[0]) == step:
      values["train/grad_norm"] = jax.device_put(np.float32([1.0, np.nan]))
    return state, values

  monkeypatch.setattr(Steps, "train", poisoned)
  monkeypatch.setattr(jax, "transfer_guard", lambda _: contextlib.nullcontext())
  good, bad = train_seeds(sweep, tmp_path / "nan").curves
  assert good.diverged is None and good.train["step"] == [1, 2, 3, 4] and good.final is not None
  assert bad.diverged == 2 and bad.train["step"] == [1] and bad.val["step"] == [0]
  assert bad.final is None


@pytest.mark.slow
def test_an_arm_from_configs_to_result(sweep, tmp_path):
  (tmp_path / "arms" / "dhc2").mkdir(parents=True)  # as the runner makes it
  result = train_arm(sweep, sweep.groups()[1], str(tmp_path), silent)
  costs = result.costs
  assert result.seeds == list(SEEDS) and len(set(result.first_batch)) == 2
  assert costs["params"] > costs["connection_params"] > 0
  # 6 FLOPs for each weight of a matrix product, plus attention, norms and connections
  assert 6 < costs["flops_per_token"] / (costs["params"] - costs["connection_params"]) < 12
  assert not list((tmp_path / "arms" / "dhc2").glob("checkpoints"))
