"""Whole tiny runs in this process: what they leave behind, and whose a folder is."""

import json
import math
import os
import pathlib

import jax
import numpy as np
import pytest

from hc_jax import UserError
from hc_jax.runs import checkpoint
from hc_jax.train import NonFiniteError, load_run, read_metrics
from hc_jax.train import start as starting
from tests.train import tiny
from tests.train.tiny import start

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.mark.slow
def test_loss_falls_on_real_text_and_what_is_left_behind_can_be_opened(tmp_path, capsys):
  flags = {"train__num_steps": 60, "train__log_every": 7, "train__eval_every": 25}
  state = start(tmp_path, **flags)
  rows = {row["step"]: row for row in read_metrics(str(tmp_path))}
  assert list(rows) == [0, 1, 7, 14, 21, 25, 28, 35, 42, 49, 50, 56, 60]
  assert rows[0]["val/bpb"] == pytest.approx(8, abs=0.2)
  assert rows[60]["val/bpb"] < rows[0]["val/bpb"] - 2
  for row in rows.values():
    if "val/loss" in row:
      assert row["val/ppl"] == pytest.approx(math.exp(row["val/loss"]))
  assert rows[60]["train/tokens"] == 60 * 8 * 32

  run = load_run(str(tmp_path))
  assert (run.step, run.config.model.d_model) == (60, 16)
  for mine, theirs in zip(jax.tree.leaves(run.params), jax.tree.leaves(state.params), strict=True):
    np.testing.assert_array_equal(mine, theirs)
  logits = run.model.apply({"params": run.params}, run.tokenizer.encode("import os")[None])
  assert logits.shape == (1, 9, 257)

  lines = capsys.readouterr().out.splitlines()
  # Per site n(n + 2) static, d(n + 2) dynamic and 2 scales, for 4 sites; 16 wide, 257 tokens.
  assert f"{4112} embedding, {4 * (8 + 64 + 2)} hyper".replace("4112", "4,112") in "\n".join(lines)
  progress = [line for line in lines if line.startswith("step")]
  assert not any("\r" in line for line in lines) and max(map(len, progress)) < 120
  assert len(progress) == 10 + 4 + 6 and "eta" in progress[1] and "tokens/s" in progress[1]
  assert list(pathlib.Path(tmp_path, "tensorboard").iterdir())


def test_a_finished_run_says_so_and_goes_on_when_there_are_more_steps(finished, capsys):
  start(finished, train__num_steps=10, train__checkpoint_every=5)
  assert "finished already, at step 10" in capsys.readouterr().out
  start(finished, train__num_steps=12, train__checkpoint_every=5, train__log_every=2)
  assert "train.num_steps 10 -> 12" in capsys.readouterr().out
  assert [row["step"] for row in read_metrics(str(finished))] == [*range(11), 12]
  assert json.loads((finished / "config.json").read_text())["config"]["train"]["num_steps"] == 12


def test_a_batch_of_more_tokens_than_there_are_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"are 32,000,000 tokens, and py_stdlib has only [\d,]+ to"):
    start(tmp_path / "run", train__batch_size=1_000_000)
  assert os.listdir(tmp_path) == []


def test_another_config_is_refused_with_the_keys(finished):
  before = (finished / "config.json").read_bytes()
  with pytest.raises(UserError, match=r"model\.d_ff None -> 8; optim\.learning_rate 0\.01 -> 0\.1"):
    start(finished, optim__learning_rate=0.1, model__d_ff=8, mesh__data=1, data__workers=2)
  assert (finished / "config.json").read_bytes() == before


def test_changed_text_is_refused(finished):
  with (
    tiny.tiny_text(fingerprint="edited"),
    pytest.raises(UserError, match=r"the data has changed"),
  ):
    start(finished, train__checkpoint_every=5)


def test_a_folder_with_other_things_is_refused(tmp_path):
  (tmp_path / "thesis.tex").touch()
  with pytest.raises(UserError, match=r"something else than a run \(thesis.tex\)"):
    start(tmp_path)
  with pytest.raises(UserError, match="no local path"):
    start("gs://bucket/run")


def test_a_bad_start_does_not_claim_the_folder(tmp_path):
  with pytest.raises(UserError, match=r"train\.profile"):
    start(tmp_path, train__profile="5")
  assert os.listdir(tmp_path) == []
  with pytest.raises(UserError, match=r"train\.profile"):
    start(tmp_path / "runs" / "new", train__profile="5")
  assert os.listdir(tmp_path) == []


def test_two_runs_do_not_share_a_folder(finished):
  from hc_jax.runs.workdir import open_workdir

  config = tiny.config(train__checkpoint_every=5)
  with (
    open_workdir(str(finished), tiny.description(config)),
    pytest.raises(UserError, match=f"process {os.getpid()}"),
  ):
    start(finished, train__checkpoint_every=5)


@pytest.fixture
def poisoned(monkeypatch):
  """A run that starts with a parameter that is no number."""
  begin = starting._begin

  def poison(*args):
    state = begin(*args)
    norm = state.params["token_embed"]["embedding"]
    state.params["token_embed"]["embedding"] = norm.at[:, 0].set(np.nan)
    return state

  monkeypatch.setattr(starting, "_begin", poison)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(finished, poisoned):
  rows = read_metrics(str(finished))
  message = r"train/\w+ is nan at step 11; the last good checkpoint is step 10, .*debug_nans=True"
  with pytest.raises(NonFiniteError, match=message):
    start(finished, train__num_steps=30, train__checkpoint_every=1)
  assert checkpoint.steps_of(str(finished)) == [5, 10]
  assert read_metrics(str(finished)) == rows


@pytest.mark.slow
def test_debug_nans_names_what_was_not_finite(finished, poisoned):
  message = r"First site: parameter token_embed/embedding was already NaN before the step"
  with pytest.raises(NonFiniteError, match=message):
    start(finished, train__num_steps=30, train__debug_nans=True)


@pytest.mark.slow
def test_the_profile_holds_the_named_scopes(tmp_path):
  start(tmp_path, train__num_steps=4, train__profile="2:4", train__eval_every=0)
  traces = list(pathlib.Path(tmp_path, "profile").rglob("*.xplane.pb"))
  assert len(traces) == 1
  text = traces[0].read_bytes()
  for scope in (b"hc/coefs", b"hc/read", b"hc/write"):
    assert scope in text
