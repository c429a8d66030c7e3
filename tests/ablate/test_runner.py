"""Tests of a sweep's folder: finished arms are skipped, shards merge, other sweeps are refused."""

import json
import os

import pytest

from hc_jax import UserError, cli
from hc_jax.ablate.running import folder, records
from hc_jax.ablate.running.runner import finish, run_sweep
from hc_jax.config_keys import ADDED

FILES = ("report.md", "report.html", "results.jsonl", "loss.png", "differences.png")


def silent(line=""):
  del line


def contents(out, names=FILES):
  return {name: (out / name).read_bytes() for name in names}


@pytest.fixture(autouse=True)
def _quick(request):
  """Draws pictures only in tests that compare bytes."""
  if "byte_for_byte" not in request.node.name:
    request.getfixturevalue("no_pictures")


@pytest.fixture
def sweep(make_sweep):
  return make_sweep(seeds=(0, 1))


def test_a_finished_sweep_is_only_reported_again_byte_for_byte(sweep, tmp_path, no_training):
  assert run_sweep(sweep, str(tmp_path / "out"), log=silent) == []
  assert no_training == ["residual", "dhc2"]
  before, lines = contents(tmp_path / "out"), []
  for name in FILES:
    os.unlink(tmp_path / "out" / name)
  run_sweep(sweep, str(tmp_path / "out"), log=lines.append)
  assert no_training == ["residual", "dhc2"] and "[1/2] residual: finished before" in lines
  assert contents(tmp_path / "out") == before
  assert sorted(p.name for p in (tmp_path / "out").glob(".*")) == []


def test_what_was_interrupted_goes_on_with_the_next_arm(sweep, tmp_path, no_training, monkeypatch):
  from hc_jax.ablate.running import runner

  train = runner.train_arm

  def interrupted(sweep, group, out, log):
    if group.arm == "dhc2":
      raise KeyboardInterrupt
    return train(sweep, group, out, log)

  monkeypatch.setattr(runner, "train_arm", interrupted)
  with pytest.raises(KeyboardInterrupt):
    run_sweep(sweep, str(tmp_path), log=silent)
  assert [group.id for group in finish(str(tmp_path), silent)] == ["dhc2"]
  assert "Not finished yet, and missing here: dhc2" in (tmp_path / "report.md").read_text()
  monkeypatch.setattr(runner, "train_arm", train)
  assert run_sweep(sweep, str(tmp_path), log=silent) == []
  assert no_training == ["residual", "dhc2"]


def test_shards_merge_to_the_report_of_one_process(make_sweep, tmp_path, no_training):
  arms = {name: {"model.connection.name": "residual"} for name in ("residual", "a", "b", "c")}
  sweep = make_sweep(arms=arms, seeds=(0, 1))
  run_sweep(sweep, str(tmp_path / "one"), log=silent)
  del no_training[:]
  missing = run_sweep(sweep, str(tmp_path / "two"), shard=(2, 2), log=silent)
  assert no_training == ["a", "c"] and [group.id for group in missing] == ["residual", "b"]
  assert run_sweep(sweep, str(tmp_path / "two"), shard=(1, 2), log=silent) == []
  assert contents(tmp_path / "one", FILES[:3]) == contents(tmp_path / "two", FILES[:3])


def test_results_are_rows_of_runs(sweep, tmp_path, no_training):
  run_sweep(sweep, str(tmp_path), log=silent)
  rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
  assert [(row["arm"], row["seed"]) for row in rows] == [
    ("residual", 0),
    ("residual", 1),
    ("dhc2", 0),
    ("dhc2", 1),
  ]
  assert rows[2]["val/loss"] == pytest.approx(1.9) == rows[2]["val"]["loss"][-1]
  assert rows[0]["status"] == "finished" and rows[0]["params"] == 1000


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"train__num_steps": 6}, "base.train.num_steps 4 -> 6"),
    ({"seeds": (0, 1, 2)}, r"seeds \[0, 1\] -> \[0, 1, 2\]"),
    ({"arms": {"residual": {}}}, "arms.dhc2.model.connection.num_streams 2 -> nothing"),
    ({"learning_rates": (0.01,)}, r"learning_rates \[\] -> \[0.01\]"),
  ],
)
def test_another_sweep_is_refused_with_the_difference(
  sweep, make_sweep, tmp_path, no_training, changes, words
):
  run_sweep(sweep, str(tmp_path), log=silent)
  with pytest.raises(UserError, match=words):
    run_sweep(make_sweep(**{"seeds": (0, 1)} | changes), str(tmp_path), log=silent)
  run_sweep(make_sweep(seeds=(0, 1), train__checkpoint_every=3), str(tmp_path), log=silent)


def test_a_key_that_is_newer_than_the_folder_is_no_difference(sweep, tmp_path, no_training):
  run_sweep(sweep, str(tmp_path), log=silent)
  path = tmp_path / folder.FILE
  values = json.loads(path.read_text())
  group, key = next(iter(ADDED)).split(".")
  del values["sweep"]["base"][group][key]
  path.write_text(json.dumps(values))
  run_sweep(sweep, str(tmp_path), log=silent)
  assert no_training == ["residual", "dhc2"]


def test_folders_that_cannot_be(sweep, tmp_path, no_training):
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "thesis.tex").write_text("")
  with pytest.raises(UserError, match="is not empty and holds no sweep"):
    run_sweep(sweep, str(tmp_path / "other"), log=silent)
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written: Not a directory"):
    run_sweep(sweep, str(tmp_path / "file" / "out"), log=silent)
  with pytest.raises(UserError, match="holds no sweep"):
    finish(str(tmp_path / "other"), silent)
  folder.open_sweep(str(tmp_path / "new"), sweep)
  with pytest.raises(UserError, match=r"no arm of the sweep in .* is finished yet"):
    finish(str(tmp_path / "new"), silent)


def test_a_result_that_cannot_be_read_is_named(sweep, tmp_path, no_training):
  run_sweep(sweep, str(tmp_path), log=silent)
  path = tmp_path / "arms" / "dhc2" / records.RESULT
  path.write_text(path.read_text()[:100])
  with pytest.raises(UserError, match=r"dhc2/result\.json cannot be read"):
    finish(str(tmp_path), silent)


def test_a_sweep_is_read_back_as_it_was(make_sweep, tmp_path):
  sweep = make_sweep(seeds=(2, 1), learning_rates=(0.01, 1.0), title="Mine", baseline="dhc2")
  folder.open_sweep(str(tmp_path), sweep)
  again, _ = folder.read_sweep(str(tmp_path))
  assert folder.to_json(again) == folder.to_json(sweep)
  assert again.groups() == sweep.groups()


@pytest.mark.parametrize(
  "flags, words",
  [
    (["none.py"], "there is no config file none.py"),
    (["none.py", "--shard=3/2"], "--shard=3/2 is not i/N"),
    (["none.py", "--shard=one"], "--shard=one is not i/N"),
    (["none.py", "--report-only", "--out=/nonexistent"], "holds no sweep"),
  ],
)
def test_the_command_says_what_is_wrong(flags, words, capsys):
  assert cli.main(["ablate", *flags]) == 2
  assert words in capsys.readouterr().err


def test_the_command_reports_and_names_what_other_shards_have_left(
  tmp_path, no_training, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  config = str(records.__file__).replace(
    "hc_jax/ablate/running/records.py", "configs/ablations/quick.py"
  )
  flags = ["ablate", config, "--seeds=0,1", "--arms=dhc4", "--config.train.num_steps=4"]
  assert cli.main([*flags, "--shard=2/2"]) == 0
  assert no_training == ["dhc4"]
  assert "not finished yet: residual" in capsys.readouterr().out
  assert cli.main(flags) == 0
  out = capsys.readouterr().out
  assert "dhc4      2.2000 ± 0.1414  higher than residual by 0.1000" in out
  assert (tmp_path / "runs" / "ablate-quick" / "report.html").exists()
  before = (tmp_path / "runs" / "ablate-quick" / "report.md").read_bytes()
  assert cli.main(["ablate", config, "--report-only"]) == 0
  assert (tmp_path / "runs" / "ablate-quick" / "report.md").read_bytes() == before
