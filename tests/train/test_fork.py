"""Runs that begin with another run's weights: first states, independence, refusals."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

from hc_jax import UserError, cli
from hc_jax.runs import checkpoint, inspect, restore
from hc_jax.runs import workdir as workdirs
from hc_jax.train import Fork, load_run, parse_fork, read_metrics
from hc_jax.train import fork as forks
from hc_jax.train.start import language_program
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("one_device")


def fork(workdir, source, **changes):
  optimizer = changes.pop("optimizer", False)
  step = changes.pop("step", None)
  return tiny.start(workdir, fork=Fork(str(source), step, optimizer), **changes)


def same(a, b):
  for mine, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(mine, theirs)


def card(workdir, step):
  return checkpoint.read_card(str(workdir), step)["fork"]


def test_what_a_fork_takes_and_what_is_new(finished):
  config = tiny.config(seed=5)
  program = language_program(config)
  origin = {"run": str(finished), "step": 10, "optimizer": False, "changed": []}
  state = forks.first_state(origin, program)
  same(state.params, load_run(str(finished), 10).params)
  same(state.opt_state, jax.tree.map(lambda leaf: np.zeros(leaf.shape), state.opt_state))
  assert int(state.step) == 0
  np.testing.assert_array_equal(state.rng, jax.random.key_data(jax.random.key(5)))

  origin["optimizer"] = True
  kept = forks.first_state(origin, program)
  same(kept.params, state.params)
  saved = restore.read_rest(str(finished), 10, program.abstract)
  same(kept.opt_state, saved["opt_state"])
  assert int(kept.step) == int(kept.opt_state[1][0].count) == 10
  np.testing.assert_array_equal(kept.rng, state.rng)


@pytest.mark.slow
def test_weights_alone_begin_at_step_0_with_a_new_schedule_and_need_no_source(trained, tmp_path):
  changes = {"optim__learning_rate": 1e-3, "train__num_steps": 4, "train__eval_every": 4}
  at_end = {row["step"]: row for row in read_metrics(str(trained))}[10]
  whole = fork(tmp_path / "whole", trained, **changes)
  assert int(whole.step) == 4 and int(whole.opt_state[1][0].count) == 4
  rows = read_metrics(str(tmp_path / "whole"))
  assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
  assert rows[0]["val/loss"] == at_end["val/loss"]
  assert rows[-1]["train/learning_rate"] == pytest.approx(1e-3)
  same(load_run(str(tmp_path / "whole"), 0).params, load_run(str(trained), 10).params)

  halves = tmp_path / "halves"
  fork(halves, trained, **changes | {"train__num_steps": 2, "train__eval_every": 0})
  source = str(trained)
  shutil.rmtree(trained)
  changes |= {"train__eval_every": 0}
  state = tiny.start(halves, fork=Fork(source), **changes)  # the same command resumes
  same(state, whole)
  for step in (2, 4):
    assert card(halves, step) == {
      "run": source,
      "step": 10,
      "optimizer": False,
      "changed": [
        "optim.learning_rate 0.01 -> 0.001",
        "train.checkpoint_every 5 -> 10",
        "train.eval_every 10 -> 0",
        "train.num_steps 10 -> 2",
      ],
    }
  lines = []
  inspect.report(str(halves), log=lines.append)
  assert f"forked       from {source} at step 10; changed: optim.learning_rate 0.01" in "\n".join(
    lines
  )


@pytest.mark.slow
def test_with_optimizer_state_it_is_the_source_that_continues(trained, tmp_path):
  state = fork(
    tmp_path / "new", trained, step=5, optimizer=True, train__num_steps=10, train__keep=3
  )
  same(state.params, load_run(str(trained), 10).params)
  rows = [read_metrics(str(path)) for path in (tmp_path / "new", trained)]
  loss = [{row["step"]: row["train/loss"] for row in r if row["step"] > 5} for r in rows]
  assert loss[0] == loss[1] and len(loss[0]) == 5
  assert card(tmp_path / "new", 10)["changed"] == [
    "train.checkpoint_every 5 -> 10",
    "train.keep 2 -> 3",
  ]


@pytest.mark.parametrize(
  "changes, words",
  [
    (
      {"model__d_model": 8},
      r"at step 10 cannot be forked: .*attn/key_kernel is \(2, 16, 2, 8\), and \(",
    ),
    (
      {"model__connection__num_streams": 4},
      r"attn_connection/dynamic_kernel is \(2, 16, 4\), and \(2, 16, 6\)",
    ),
    ({"optimizer": True, "optim__name": "lion"}, r"state of another optimizer: opt_state/\[1\]"),
    ({"step": 7}, r"holds no checkpoint 7; there are 5, 10"),
    (
      {"optimizer": True, "train__num_steps": 10},
      r"train\.num_steps=10 is not above step 10",
    ),
  ],
)
def test_what_does_not_fit_is_refused_by_name_and_leaves_nothing(
  finished, tmp_path, changes, words
):
  with pytest.raises(UserError, match=words):
    fork(tmp_path / "new", finished, **changes)
  assert os.listdir(tmp_path) == ["run"]


def test_a_source_that_is_not_a_run_is_refused(tmp_path):
  (tmp_path / "run").mkdir()
  with pytest.raises(UserError, match="run holds no run"):
    fork(tmp_path / "new", tmp_path / "run")
  with pytest.raises(UserError, match="is the workdir itself"):
    fork(tmp_path / "run", tmp_path / "run")


def claimed(path, origin=None, checkpoints=()):
  """Makes a folder that looks like a run that has started."""
  for step in checkpoints:
    (path / "checkpoints" / str(step)).mkdir(parents=True)
    (path / "checkpoints" / str(step) / "manifest.json").write_text("{}")
  path.mkdir(exist_ok=True)
  workdirs.save_config(str(path), tiny.description(tiny.config()), origin)
  return str(path)


ORIGIN = {"run": "/runs/a", "step": 10, "optimizer": False, "changed": []}


def settle(fork, workdir):
  return forks.settle(fork, workdir, tiny.description(tiny.config()), None, 10, log=print)


def test_a_workdir_of_another_origin_is_refused(tmp_path):
  plain = claimed(tmp_path / "plain", checkpoints=[10])
  assert settle(None, plain) is None
  with pytest.raises(
    UserError, match="run that was not forked; choose another `workdir`, or leave"
  ):
    settle(Fork("/runs/a"), plain)
  forked = claimed(tmp_path / "forked", ORIGIN, checkpoints=[10])
  for same_origin in (None, Fork("/runs/a"), Fork("/runs/a", 10), Fork("/runs/a", "best")):
    assert settle(same_origin, forked) == ORIGIN
  for other in (Fork("/runs/b"), Fork("/runs/a", 5), Fork("/runs/a", optimizer=True)):
    with pytest.raises(UserError, match="fork of another origin"):
      settle(other, forked)


def test_a_fork_without_a_checkpoint_never_begins_from_the_seed(tmp_path):
  begun = claimed(tmp_path / "begun", ORIGIN)
  with pytest.raises(UserError, match=r"to begin from /runs/a@10, but has no checkpoint; repeat"):
    settle(None, begun)
  with pytest.raises(UserError, match="/runs/a holds no run"):  # which it then opens again
    settle(Fork("/runs/a"), begun)


def test_a_record_that_was_tampered_with_is_refused(tmp_path):
  for record in ("x", [], {"run": 3}, ORIGIN | {"step": True}, ORIGIN | {"more": 1}):
    path = tmp_path / "run"
    claimed(path)
    saved = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(saved | {"fork": record}))
    with pytest.raises(UserError, match="cannot be read as a run's config"):
      settle(None, str(path))


def test_flags(tmp_path, monkeypatch):
  assert parse_fork(None) is None
  assert parse_fork("runs/a") == Fork("runs/a", None, False)
  assert parse_fork("runs/a@20", True) == Fork("runs/a", 20, True)
  assert parse_fork("runs/a@best") == Fork("runs/a", "best", False)
  assert parse_fork("me@home/a") == Fork("me@home/a", None, False)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a@20").mkdir()
  assert parse_fork("a@20") == Fork("a@20", None, False)
  with pytest.raises(UserError, match="add `fork=RUN`"):
    parse_fork(None, True)
  flags = ["train", "c.py", "--workdir=w"]
  found, _ = cli.parse([*flags, "--fork=runs/a@3", "--fork-optimizer"])
  assert (found.fork, found.fork_optimizer) == ("runs/a@3", True)
  found, _ = cli.parse(flags)
  assert (found.fork, found.fork_optimizer) == (None, False)
