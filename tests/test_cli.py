"""Tests of the commands as a user calls them, on a tiny run."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import cli
from hc_jax.data import Tokenizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "train"))
import tiny  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns the folder of a run of two steps."""
  from hc_jax import train

  workdir = tmp_path_factory.mktemp("cli") / "run"
  with tiny.tiny_text():
    train.train_and_evaluate(tiny.config(train__num_steps=2, train__batch_size=8), str(workdir))
  return workdir


def test_params_prints_counts_and_decay(capsys):
  config = str(ROOT / "configs" / "olmo_1b.py")
  assert cli.main(["params", config, "--config.model.connection.name=residual"]) == 0
  assert re.search(r"^total +1,176,764,416 ", capsys.readouterr().out, re.M)
  assert cli.main(["params", config]) == 0
  out = capsys.readouterr().out
  assert re.search(r"^hyper-connection +394,048 ", out, re.M)
  decay = {line.split()[0].split("/")[-1]: line.split()[3] for line in out.splitlines()[1:19]}
  assert decay["static_mix"] == decay["dynamic_scale"] == "no"
  assert decay["dynamic_kernel"] == decay["embedding"] == "yes"


def test_params_of_a_config_that_leaves_the_vocabulary_to_the_tokenizer(capsys):
  assert cli.main(["params", str(ROOT / "configs" / "quickstart.py")]) == 0
  assert "257x128" in capsys.readouterr().out


@pytest.mark.parametrize(
  "argv, words",
  [
    (["analyse", "x"], "no command analyse; did you mean analyze?"),
    (["analyze", "x", "--formts=png"], "--formts=png; did you mean --formats?"),
    (["ablate", "x", "--report-onl"], "--report-onl; did you mean --report-only?"),
    (["params", "x", "--zzz"], "params does not take --zzz; --help"),
    (["--versoin"], "hc-jax does not take --versoin; did you mean --version?"),
    (["train", "x", "--wrokdir=w"], "--wrokdir=w; did you mean --workdir?"),
    (["train", "x", "--workdir=w", "--cofnig.seed=1"], "are written --config.group.key=value"),
    (
      ["sample", "x", "--config.seed=1"],
      "sample does not take --config.seed=1; did you mean --seed?",
    ),
  ],
)
def test_a_typo_is_answered_with_the_nearest(argv, words, capsys):
  with pytest.raises(SystemExit) as end:
    cli.main(argv)
  assert end.value.code == 2 and words in capsys.readouterr().err


def test_flags_of_train():
  args, overrides = cli.parse(["train", "--workdir=w", "quickstart", "--config.a.b=v"])
  assert (args.config, args.workdir, overrides) == ("quickstart", "w", ["--config.a.b=v"])
  assert (args.fork, args.distributed, args.connect_timeout) == (None, "auto", 300)
  several = ["--coordinator=a:1", "--num-processes=2", "--process-id=1", "--heartbeat-timeout=9"]
  args, _ = cli.parse(["train", "x.py", "--workdir", "w", "--import", "a.b", *several])
  assert (args.coordinator, args.num_processes, args.process_id) == ("a:1", 2, 1)
  assert (args.modules, args.heartbeat_timeout) == (["a.b"], 9)


@pytest.mark.parametrize("config", [["--config=small"], ["--config", "small"], ["small"]])
def test_train_py_is_hc_jax_train(config, monkeypatch):
  import train as command

  found = []
  monkeypatch.setattr(cli.train, "main", lambda *given: found.append(given) or 75)
  assert command.main([*config, "--workdir=w", "--config.seed=1"]) == 75
  (args, overrides), *_ = found
  assert (args.command, args.config, overrides) == ("train", "small", ["--config.seed=1"])


def test_train_joins_other_processes_before_it_imports_modules_of_the_users(monkeypatch):
  from hc_jax.processes import cluster

  order = []
  monkeypatch.setattr(cluster, "connect", lambda found: order.append(found.num_processes))
  monkeypatch.setattr(cluster, "leave", lambda code: order.append(f"left with {code}"))
  monkeypatch.setattr(cli.train, "import_modules", order.append)
  argv = ["train", "nowhere.py", "--workdir=w", "--import=mine", "--num-processes=2"]
  assert cli.main(argv) == 2
  assert order == [2, ["mine"], "left with 2"]


@pytest.mark.parametrize("error", [OSError(5, "of ours"), BrokenPipeError("of ours")])
def test_a_mistake_while_training_is_never_taken_for_lost_output(error, monkeypatch):
  from hc_jax.processes import cluster

  def fail(_):
    raise error

  left = []
  monkeypatch.setattr(cluster, "connect", fail)
  monkeypatch.setattr(cluster, "leave_by", left.append)
  with pytest.raises(OSError, match="of ours"):
    cli.main(["train", "small", "--workdir=w"])
  assert left == [error]


@pytest.mark.parametrize("argv", [["--copy=mine.py", "small"], ["small", "--copy=mine.py"]])
def test_the_order_of_a_name_and_a_flag_does_not_matter(argv):
  args, _ = cli.parse(["configs", *argv])
  assert (args.name, args.copy) == ("small", "mine.py")


def test_a_run_that_is_not_there_is_answered_with_the_nearest(tmp_path, capsys):
  (tmp_path / "quickstart").mkdir()
  assert cli.main(["inspect", str(tmp_path / "quikstart")]) == 2
  assert f"no such folder; did you mean {tmp_path / 'quickstart'}?" in capsys.readouterr().err
  assert cli.main(["inspect", str(tmp_path / "quickstart")]) == 2
  assert f"there is no {tmp_path / 'quickstart' / 'config.json'}" in capsys.readouterr().err


@pytest.mark.parametrize(
  "argv, words",
  [
    (["params", "configs/none.py"], "no config file"),
    (["params", str(ROOT / "configs/small.py"), "--config.model.d_modle=3"], "model.d_model"),
    (["sample", "/nonexistent/run"], "no run"),
    (["analyze", "/nonexistent/run"], "no run"),
    (["eval", "/nonexistent/run"], "no run"),
    (["inspect", "/nonexistent/run"], "no run"),
    (["analyze", "/nonexistent/run", "--formats=gif"], "choose from png,pdf,svg"),
  ],
)
def test_what_is_wrong_exits_with_2(argv, words, capsys):
  assert cli.main(argv) == 2
  err = capsys.readouterr().err
  assert words in err and "Traceback" not in err


def test_an_unknown_argument_exits_with_2(capsys):
  with pytest.raises(SystemExit) as stop:
    cli.main(["sample", "run", "--promt=x"])
  assert stop.value.code == 2
  assert "--promt" in capsys.readouterr().err


@pytest.mark.slow
def test_sample_writes_the_prompt_and_more(run, capsys):
  argv = ["sample", str(run), "--prompt=def ", "--tokens=12"]
  assert cli.main([*argv, "--temperature=0"]) == 0
  greedy = capsys.readouterr().out
  assert greedy.startswith("def ")
  assert cli.main([*argv, "--samples=3", "--seed=7"]) == 0
  out = capsys.readouterr().out
  assert out.count("--- ") == 3 and out.count("def ") >= 3
  assert cli.main([*argv, "--samples=0"]) == 2


class Words:
  """A tokenizer that drops the space before the first word that it decodes."""

  bos_id = 0
  words = ("", "read", "words", "more")

  def encode(self, text):
    return np.array([self.words.index(word) for word in text.split()], np.int32)

  def decode(self, ids):
    return " ".join(self.words[i] for i in ids)

  extend = Tokenizer.extend


@pytest.fixture
def written(monkeypatch):
  """Replaces a run's model by one that writes the given rows of tokens, column by column."""

  def make(*rows):
    steps = [np.array(column) for column in zip(*rows, strict=True)]
    monkeypatch.setattr("hc_jax.sample.generate", lambda *_, **__: iter(steps))
    run = train.Run(None, None, None, Words(), 1, {}, "w")
    monkeypatch.setattr(train, "load_run", lambda *_: run)
    return run

  from hc_jax import train

  return make


@pytest.mark.parametrize("samples", [1, 2])
def test_sample_puts_a_space_between_the_prompt_and_the_next_word(written, capsys, samples):
  written(*[(2, 3, 0)] * samples)
  assert cli.main(["sample", "w", "--prompt=read", f"--samples={samples}"]) == 0
  assert capsys.readouterr().out.count("read words more\n") == samples


def test_sample_in_code_returns_texts_up_to_where_the_next_document_begins(written):
  run = written((2, 0, 3, 1), (3, 2, 2, 1))
  assert run.sample("read", samples=2) == ["read words", "read more words words read"]
  run = written((2, 0, 1), (0, 3, 1))
  assert run.sample("read", samples=2) == ["read words", "read"]
  with pytest.raises(hc.UserError, match="samples=0 must be at least 1"):
    run.sample(samples=0)


def test_sample_asks_the_model_for_what_it_was_asked(written, monkeypatch):
  run, asked = written((2,)), {}

  def generate(model, params, prompt, num_tokens, *, key, **settings):
    asked.update(settings, prompt=prompt.tolist(), num_tokens=num_tokens, key=key)
    return iter(())

  monkeypatch.setattr("hc_jax.sample.generate", generate)
  assert (
    run.sample("read more", tokens=7, samples=2, top_k=3, top_p=0.5, seed=9) == ["read more"] * 2
  )
  assert (asked["prompt"], asked["num_tokens"]) == ([[0, 1, 3]] * 2, 7)
  assert (asked["temperature"], asked["top_k"], asked["top_p"]) == (0.8, 3, 0.5)
  assert asked["key"] == jax.random.key(9)


@pytest.mark.slow
def test_analyze_draws_and_prints_what_a_run_learned(run, capsys, tmp_path):
  with tiny.tiny_text():
    assert cli.main(["analyze", str(run), f"--out={tmp_path}", "--formats=png"]) == 0
  out = capsys.readouterr().out
  for name in ("loss", "connections", "unfolded", "similarity", "gains"):
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"{name}.csv").read_text().count("\n") > 1
    assert str(tmp_path / f"{name}.png, .csv") in out
  assert "comp_amax_fwd" in out and "max_i |sum_j P_ij|" in out


@pytest.mark.slow
def test_compare_draws_two_runs_and_says_what_is_not_of_one_kind(run, capsys, tmp_path):
  argv = ["analyze", str(run), "--compare", str(run), f"--out={tmp_path}", "--formats=svg"]
  with tiny.tiny_text():
    assert cli.main(argv) == 0
  out = capsys.readouterr().out
  assert "run (1): " in out and "at step 2, its last" in out and "parallel pairs" in out
  assert (tmp_path / "compare_loss.svg").exists() and (tmp_path / "findings.md").exists()
  assert cli.main([*argv[:3], "/nonexistent/run"]) == 2
  assert "no run" in capsys.readouterr().err


def test_losses_of_other_texts_are_not_compared():
  def of(fingerprint, tokenizer="bytes"):
    card = {"data": {"fingerprint": fingerprint, "tokenizer": tokenizer, "vocab_size": 257}}
    return types.SimpleNamespace(card=card, config=tiny.config())

  assert cli.analyze._other_text(of("a"), of("a", "copied.model")) == ""
  assert "different texts, py_stdlib a" in cli.analyze._other_text(of("a"), of("b"))
  assert "different tokenizers, bytes" in cli.analyze._other_text(of("a"), of("b", "x.model"))


def test_python_m_hc_jax_is_hc_jax(tmp_path):
  env = os.environ | {"PYTHONPATH": str(ROOT)}
  command = [sys.executable, "-m", "hc_jax", "--version"]
  done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
  assert (done.returncode, done.stdout, done.stderr) == (0, f"hc_jax {hc.__version__}\n", "")
