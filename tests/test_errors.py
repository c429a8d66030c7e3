"""Tests that errors name arguments in the caller's words: Python, a config, a command."""

import types

import pytest

import hc_jax as hc
from hc_jax import cli, data, sharding, train
from hc_jax.config import load_config
from hc_jax.config_keys import arguments
from hc_jax.errors import UserError, in_words, named


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("set `files`, or `field`", "set --files, or `field`"),
    ("`files=('a',)` is empty", "--files=('a',) is empty"),
    ("files=3 must be a list, and files=4 too", "--files=3 must be a list, and files=4 too"),
    ("no files in `hc-jax train`", "no files in `hc-jax train`"),
  ],
)
def test_arguments_are_named_in_the_callers_words(text, expected):
  assert in_words(text, {"files": "--files"}) == expected


def test_only_errors_for_the_user_change_and_the_nearest_caller_decides():
  flags = {"files": "--files", "out": "--out"}
  with (
    pytest.raises(UserError, match=r"^data\.files and --out$"),
    named(flags),
    named({"files": "data.files"}),
  ):
    raise UserError("`files` and `out`")
  diverged = pytest.raises(train.NonFiniteError, match=r"^set train\.debug_nans$")
  with diverged as raised, named(arguments()):
    raise train.NonFiniteError("set `debug_nans`", 7)
  assert raised.value.step == 7
  with pytest.raises(ValueError, match=r"^`files`$"), named(flags):
    raise ValueError("`files`")


def test_every_key_is_the_word_for_its_own_name_and_the_text_has_the_first_claim():
  words = arguments()
  assert words["files"] == "data.files" and words["data_dir"] == "data.dir"
  assert words["fsdp"] == "mesh.fsdp" and words["name"] == "data.name"
  assert words["num_batches"] == "train.eval_batches"


def config(*overrides):
  return load_config("quickstart", [f"--config.{override}" for override in overrides])


def refused(call, *args, **kwargs):
  with pytest.raises(UserError) as raised:
    call(*args, **kwargs)
  return str(raised.value)


MESH = "{} 8 * {} 1): 4 / 8 = 0.5; use a multiple of 8 for {}"


def test_from_python_the_argument_is_named(tmp_path):
  path = str(tmp_path)
  said = refused(data.load_text, "text_files", data_dir=path)
  assert said.startswith("`files` is empty;")
  assert refused(data.load_text, "py_stdlib", val_fraction=2.0).startswith("val_fraction=2.0 must")
  assert refused(data.load_tokenizer, "absent.model").startswith("`tokenizer`: no file")
  mesh = sharding.make_mesh()
  said = refused(sharding.check_batch, mesh, "dp", batch_size=4, accumulation=1, length=8)
  assert said.endswith(MESH.format("`data`", "`fsdp`", "`batch_size`"))
  settings = {"num_steps": 0}
  assert refused(train.Settings, **settings).startswith("num_steps=0 must")


@pytest.mark.parametrize(
  ("overrides", "words"),
  [
    (["data.name=text_files"], "data.files is empty; "),
    (["data.files=absent.txt"], "data.files is read by data.name=text_files only"),
    (["data.name=text_files", "data.files=absent.txt"], "data.files: 'absent.txt' does not exist"),
    (["data.tokenizer=absent.model"], "data.tokenizer: no file"),
    (["data.dir=/proc/none"], "set data.dir (or HC_JAX_DATA)"),
    (["mesh.fsdp=2"], "mesh.fsdp=2 does nothing under mesh.preset=dp; set it to 1, or use mesh."),
    (["train.batch_size=4"], MESH.format("mesh.data", "mesh.fsdp", "train.batch_size")),
    (["train.trackers=absent_abc:made"], "train.trackers=absent_abc:made: there is no module"),
  ],
)
def test_a_run_of_a_config_names_keys(tmp_path, overrides, words):
  said = refused(train.train_and_evaluate, config(*overrides), str(tmp_path / "run"))
  assert words in said and "`" not in said


def test_hc_jax_train_adds_flags_to_the_keys(tmp_path, capsys):
  (tmp_path / "thesis.tex").touch()
  assert cli.main(["plan", "quickstart", "--mesh=rows:3"]) == 2
  assert "--mesh: there is no axis rows" in capsys.readouterr().err
  assert cli.main(["plan", "quickstart", "--mesh=data:3"]) == 2
  assert "for train.batch_size" in capsys.readouterr().err
  begun = ["train", "quickstart", f"--workdir={tmp_path / 'run'}"]
  assert cli.main([*begun, "--config.data.name=text_files"]) == 2
  assert "error: data.files is empty; " in capsys.readouterr().err
  assert cli.main(["train", "quickstart", f"--workdir={tmp_path / 'thesis.tex'}"]) == 2
  assert "is a file; choose a folder for --workdir" in capsys.readouterr().err
  assert cli.main([*begun, "--fork-optimizer"]) == 2
  assert "--fork-optimizer needs a run to fork; add --fork=RUN" in capsys.readouterr().err


@pytest.fixture
def opened(monkeypatch):
  """Returns a run with only the parts that looking for its text needs."""
  tokenizer = data.load_tokenizer()
  run = types.SimpleNamespace(config=config(), tokenizer=tokenizer, workdir="/run", step=3)
  monkeypatch.setattr(train, "load_run", lambda *_: run)
  return run


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--files=absent.txt"], "--files: 'absent.txt' does not exist"),
    (["--files=rows.jsonl"], "fields that hold text: body; set --field"),
    (["--files=a.txt", "--split=val"], "--split=val splits the run's own text; leave"),
    (["--batches=0"], "--batches=0 must be at least 1"),
    (["--batch-size=0"], "--batch-size=0 must be at least 1"),
  ],
)
def test_hc_jax_eval_names_flags(opened, tmp_path, monkeypatch, capsys, flags, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "rows.jsonl").write_text('{"body": "b"}\n')
  assert cli.main(["eval", "run", *flags]) == 2
  error = capsys.readouterr().err.splitlines()[-1]
  assert words in error and "`" not in error


def test_evaluate_run_names_its_arguments(opened):
  assert "`files`: 'absent.txt'" in refused(train.evaluate_run, opened, files=["absent.txt"])
  assert refused(hc.train.evaluate_run, opened, batches=0) == "`batches=0` must be at least 1"
