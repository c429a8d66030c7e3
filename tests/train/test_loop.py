"""Whole tiny runs in this process: their files and lines, and the claim on a folder."""

import json
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hc_jax import UserError
from hc_jax.runs import checkpoint, inspect
from hc_jax.runs import workdir as workdirs
from hc_jax.train import NonFiniteError, load_run, read_metrics
from tests.train import line, strangers, tiny
from tests.train.tiny import start


@pytest.fixture(autouse=True)
def tiny_text():
  with tiny.tiny_text():
    yield


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
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


def test_a_finished_run_says_so_and_goes_on_when_there_are_more_steps(finished_line, capsys):
  line.start(finished_line, num_steps=10, checkpoint_every=5)
  assert "finished already, at step 10" in capsys.readouterr().out
  line.start(finished_line, num_steps=12, checkpoint_every=5, log_every=2)
  assert "train.num_steps 10 -> 12" in capsys.readouterr().out
  assert [row["step"] for row in read_metrics(str(finished_line))] == [*range(11), 12]
  saved = json.loads((finished_line / "config.json").read_text())
  assert (saved["task"], saved["config"]["train"]["num_steps"]) == ("line", 12)


def test_a_batch_of_more_tokens_than_there_are_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"are 32,000,000 tokens, and py_stdlib has only [\d,]+ to"):
    start(tmp_path / "run", train__batch_size=1_000_000)
  assert os.listdir(tmp_path) == []


def test_another_config_is_refused_with_the_keys(tmp_path):
  workdirs.save_config(str(tmp_path), tiny.description(tiny.config()))
  before = (tmp_path / "config.json").read_bytes()
  with pytest.raises(UserError, match=r"model\.d_ff None -> 8; optim\.learning_rate 0\.01 -> 0\.1"):
    start(tmp_path, optim__learning_rate=0.1, model__d_ff=8, mesh__data=1, data__workers=2)
  assert (tmp_path / "config.json").read_bytes() == before


def test_changed_text_is_refused(tmp_path):
  strangers.make(tmp_path / "run")
  with pytest.raises(UserError, match=r"changed .* \(fingerprint 0{32} there, tiny now\)"):
    start(tmp_path / "run", **strangers.FLAGS)


def test_a_run_of_the_version_before_is_read(tmp_path):
  """Opens a run whose config.json and card name neither a task nor the best value."""
  run = tmp_path / "run"
  strangers.make(run)
  saved = json.loads((run / "config.json").read_text())
  assert saved.pop("task") == "language_model"
  (run / "config.json").write_text(json.dumps(saved))
  strangers.edit_sealed(
    "card/metadata", lambda card: {k: v for k, v in card.items() if k not in ("task", "best")}
  )(run)
  card = json.loads(strangers.at(run, "card/metadata").read_text())
  assert "task" not in card and card["val/loss"] == 1.0
  found = load_run(str(run), "best")
  assert (found.step, found.card["task"]) == (strangers.STEP, "language_model")
  assert checkpoint.best_step(str(run)) == strangers.STEP
  assert inspect.report(str(run), log=lambda _: None) == 0
  said = []
  description = tiny.description(strangers.config())
  with workdirs.open_workdir(str(run), description, said.append):  # it may be resumed
    assert said == []


def test_a_folder_with_other_things_is_refused(tmp_path):
  (tmp_path / "thesis.tex").touch()
  with pytest.raises(UserError, match=r"something else than a run \(thesis.tex\)"):
    line.start(tmp_path)
  with pytest.raises(UserError, match="not a local path"):
    line.start("gs://bucket/run")


def test_a_bad_start_does_not_claim_the_folder(tmp_path):
  with pytest.raises(UserError, match=r"train\.profile"):
    start(tmp_path, train__profile="5")
  assert os.listdir(tmp_path) == []
  with pytest.raises(UserError, match=r"train\.profile"):
    start(tmp_path / "runs" / "new", train__profile="5")
  assert os.listdir(tmp_path) == []
  task = line.task(init=lambda key: {})
  with pytest.raises(UserError, match="it must make 'params'"):
    line.start(tmp_path / "runs" / "new", task)
  assert os.listdir(tmp_path) == []


def test_two_runs_do_not_share_a_folder(finished_line):
  with (
    workdirs.open_workdir(str(finished_line), workdirs.saved_description(str(finished_line))),
    pytest.raises(UserError, match=f"process {os.getpid()}"),
  ):
    line.start(finished_line, checkpoint_every=5)


def diverging(change):
  """Returns a task whose loss is changed after ten batches."""
  right = line.make_loss(0.1)

  def loss(variables, batch, key):
    found, late = right(variables, batch, key), variables["seen"]["rows"] >= 10 * line.ROWS
    return found.replace(total=jnp.where(late, change(found.total), found.total))

  return line.task(loss=loss)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(finished_line):
  rows = read_metrics(str(finished_line))
  message = r"train/\w+ is nan at step 11; the last good checkpoint is step 10, .*debug_nans=True"
  task = diverging(lambda total: total * jnp.nan)
  with pytest.raises(NonFiniteError, match=message):
    line.start(finished_line, task, num_steps=30, checkpoint_every=1)
  assert checkpoint.steps_of(str(finished_line)) == [5, 10]
  assert read_metrics(str(finished_line)) == rows


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda total: total * jnp.inf, "infinity first appears in the loss of the forward pass"),
    (
      lambda total: total + 0 * jnp.sqrt(0 * total),
      "the forward pass is finite; NaN first appears in the gradient of slopes",
    ),
  ],
)
def test_debug_nans_names_what_was_not_finite(finished_line, change, words):
  with pytest.raises(NonFiniteError, match=f"at step 11; .* First site: {words}"):
    line.start(finished_line, diverging(change), num_steps=30, debug_nans=True)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_the_profile_holds_the_named_scopes(tmp_path):
  start(tmp_path, train__num_steps=4, train__profile="2:4", train__eval_every=0)
  traces = list(pathlib.Path(tmp_path, "profile").rglob("*.xplane.pb"))
  assert len(traces) == 1
  text = traces[0].read_bytes()
  for scope in (b"hc/coefs", b"hc/read", b"hc/write"):
    assert scope in text
