"""Commands on a run of a user's own task: `eval` takes the task, `inspect` does not need it."""

import sys

import pytest

from hc_jax import cli, train
from tests.train import line

MODULE = """
from tests.train import line

def make_task():
  return line.task()

def other():
  return line.task(name="curve")

def broken():
  return {}["slopes"]

def nothing():
  return None

TASK = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Makes a folder with a run of five steps, and a module that makes its task."""
  made = tmp_path_factory.mktemp("open")
  line.start(made / "run", num_steps=5)
  (made / "my_line.py").write_text(MODULE)
  return made


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setattr(sys, "path", list(sys.path))
  yield
  sys.modules.pop("my_line", None)


def test_eval_gives_the_trainers_numbers(capsys):
  row = train.read_metrics("run")[-1]
  assert cli.main(["eval", "run", "--task=my_line:make_task"]) == 0
  out, err = capsys.readouterr()
  found = {name: float(value) for name, value in map(str.split, out.splitlines())}
  assert found == pytest.approx({k: v for k, v in row.items() if k.startswith("val/")}, rel=1e-5)
  assert err.endswith("run, step 5\n")


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--task=my_line:make_tsk"], "my_line has no make_tsk; did you mean 'make_task'?"),
    (["--task=my_lin:make_task"], "there is no module 'my_lin' in"),
    (["--task=my_line"], "--task=my_line is not module:name"),
    (["--task=my_line:TASK"], "--task=my_line:TASK is not a function; name one that returns a"),
    (["--task=my_line:nothing"], "--task=my_line:nothing returns NoneType; it must return a"),
    (["--task=my_line:broken"], "my_line.py:11: KeyError: 'slopes'"),
    (["--task=my_line:other"], "a run of the task 'line', but Task.name is 'curve'; give the task"),
    (
      ["--task=my_line:make_task", "--split=val"],
      "--split chooses text, but --task brings its own",
    ),
    (["--task=my_line:make_task", "--step=3"], "holds no checkpoint 3; there are 5"),
  ],
)
def test_eval_says_what_is_wrong_with_the_task(flags, words, capsys):
  assert cli.main(["eval", "run", *flags]) == 2
  err = capsys.readouterr().err
  assert words in err and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
  "command",
  [["eval", "run"], ["sample", "run"], ["analyze", "run"], ["analyze", "run", "--compare=run"]],
)
def test_commands_of_a_language_model_say_what_opens_it(command, capsys):
  assert cli.main(command) == 2
  err = capsys.readouterr().err
  assert err.count("\n") == 1
  assert "trains the task 'line' and not a language model; `hc-jax inspect` shows it, " in err
  assert "`hc-jax eval --task=module:function` evaluates it" in err


def test_inspect_shows_it_without_the_task(capsys):
  assert cli.main(["inspect", "run"]) == 0
  shown = capsys.readouterr().out
  row = train.read_metrics("run")[-1]
  assert f"{row['val/loss']:.4f}  good" in shown and "  task         line\n" in shown
  assert "slopes       [1.0, -2.0, 0.5]" in shown and "num_steps=5" in shown
  assert "  slopes" in shown and f"val/loss                {row['val/loss']:.6g}" in shown
