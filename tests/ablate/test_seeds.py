"""Seeds that train together are the runs that they would be one by one, and arms are paired."""

import jax
import numpy as np
import pytest

from hc_jax.ablate.running.arm import train_arm
from hc_jax.ablate.running.seeds import SeedLoop, branch_digests, create_states
from hc_jax.ablate.running.single import train_one_by_one
from hc_jax.params import is_connection, named_leaves
from hc_jax.step.state import create_state
from hc_jax.train import Stopped
from hc_jax.train.task import make_task, train_batches

SEEDS = (3, 8)


class Signal:
  """What stops a loop: after so many checks, or never."""

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


def loop_of(sweep, folder, log=silent, arm=1):
  configs = [sweep.config(sweep.groups()[arm], seed) for seed in SEEDS]
  task = make_task(configs[0], silent, jax.devices()[:1])
  folder.mkdir(exist_ok=True)  # as the runner makes it
  return SeedLoop(configs, task, str(folder), log)


@pytest.fixture
def sweep(make_sweep, one_device):
  # The loss in parts of the length and the batch in two: what the trainer has, the loop must have.
  return make_sweep(seeds=SEEDS, train__accumulation=2, train__loss_parts=2)


@pytest.fixture
def whole(sweep, tmp_path):
  """A loop that ran to its end."""
  loop = loop_of(sweep, tmp_path / "whole")
  loop.run(Signal())
  return loop


@pytest.mark.slow
def test_together_is_one_by_one(sweep, whole, tmp_path):
  configs = [sweep.config(sweep.groups()[1], seed) for seed in SEEDS]
  single, measured = train_one_by_one(configs, str(tmp_path / "single"))
  for together, alone in zip(whole.curves, single, strict=True):
    assert together.train["step"] == alone.train["step"] == [1, 2, 3, 4]
    assert together.val["step"] == alone.val["step"] == [0, 2, 4]
    np.testing.assert_allclose(together.train["loss"], alone.train["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(together.val["loss"], alone.val["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(together.val["bpb"], alone.val["bpb"], rtol=0, atol=2e-5)
  assert whole.curves[0].train["loss"] != whole.curves[1].train["loss"]
  costs = whole.costs()
  assert costs["tokens_per_s"] == pytest.approx(2 * 8 * 32 / costs["step_seconds"])
  assert costs["memory_bytes"] > 0 and measured["tokens_per_s"] > 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("last", [2, 3])  # 2 is also a step that saves by itself
def test_a_loop_that_was_stopped_goes_on_to_the_same_numbers(sweep, whole, tmp_path, last):
  folder, lines = tmp_path / "stopped", []
  with pytest.raises(Stopped, match=f"by SIGTEST in stopped, after step {last} of this arm"):
    loop_of(sweep, folder).run(Signal(after=last + 1))  # one check before the steps, one a step
  again = loop_of(sweep, folder, lines.append)
  again.run(Signal())
  assert any(f"resumed at step {last}" in line for line in lines)
  for one, other in zip(whole.curves, again.curves, strict=True):
    assert one.train == other.train
    assert {k: v for k, v in one.val.items() if k != "seconds"} == {
      k: v for k, v in other.val.items() if k != "seconds"
    }
    assert other.val["seconds"] == sorted(other.val["seconds"])
  assert again.branch_init == whole.branch_init


@pytest.mark.slow
def test_the_states_are_bitwise_the_trainers(sweep):
  config = sweep.config(sweep.groups()[1], 0)
  task = make_task(config, silent, jax.devices()[:1])
  stacked = create_states(task, SEEDS, config.data.length)
  for i, seed in enumerate(SEEDS):
    one = create_state(task.model, task.optimizer, seed, mesh=task.mesh, length=config.data.length)
    for ours, theirs in zip(jax.tree.leaves(stacked), jax.tree.leaves(one), strict=True):
      np.testing.assert_array_equal(ours[i], theirs)


def test_arms_of_a_seed_begin_alike_and_see_the_same_batches(sweep):
  residual, dhc = ([sweep.config(group, seed) for seed in SEEDS] for group in sweep.groups())
  tasks = [make_task(configs[0], silent, jax.devices()[:1]) for configs in (residual, dhc)]
  params = [create_states(task, SEEDS, 32).params for task in tasks]
  plain, hyper = (dict(named_leaves(tree)) for tree in params)
  assert set(hyper) - set(plain) == {path for path in hyper if is_connection(path)} != set()
  for path, leaf in plain.items():
    np.testing.assert_array_equal(leaf, hyper[path], err_msg=path)
  digests = [branch_digests(tree, 2) for tree in params]
  assert digests[0] == digests[1] and digests[0][0] != digests[0][1]
  for one, other in zip(residual, dhc, strict=True):
    first, second = (
      train_batches(config, task.text) for config, task in zip((one, other), tasks, strict=True)
    )
    for step in (0, 1, 50):
      for name in first[step]:
        np.testing.assert_array_equal(first[step][name], second[step][name])


@pytest.mark.slow
def test_a_seed_that_diverges_is_recorded_and_the_other_goes_on(sweep, tmp_path, monkeypatch):
  loop, step = loop_of(sweep, tmp_path / "nan"), 2
  compile_ = loop._compile

  def with_nan(state, batch):
    compile_(state, batch)
    take = loop._step

    def poisoned(state, batch):
      state, values = take(state, batch)
      if int(state.step[0]) == step:
        values["train/grad_norm"] = values["train/grad_norm"].at[1].set(np.nan)
      return state, values

    loop._step = poisoned

  monkeypatch.setattr(loop, "_compile", with_nan)
  loop.run(Signal())
  good, bad = loop.curves
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
  # 6 FLOPs for each weight of a matrix product, and attention, norms and connections besides
  assert 6 < costs["flops_per_token"] / (costs["params"] - costs["connection_params"]) < 12
  assert not list((tmp_path / "arms" / "dhc2").glob("checkpoints"))
