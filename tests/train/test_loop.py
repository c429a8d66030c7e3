"""Whole tiny runs in this process: what they leave behind, and how they end when they fail."""

import errno
import gc
import json
import math
import os
import pathlib
import re
import signal
import time

import jax
import numpy as np
import pytest

from hc_jax import UserError
from hc_jax.train import (
  NonFiniteError,
  OutOfMemoryError,
  Stopped,
  StorageError,
  checkpoint,
  compilation,
  load_run,
  loop,
  manifest,
  read_metrics,
  train_and_evaluate,
)
from tests.train import tiny

pytestmark = pytest.mark.usefixtures("one_device")


def start(workdir, **changes):
  return train_and_evaluate(tiny.config(**changes), str(workdir))


@pytest.fixture(scope="module")
def template(tmp_path_factory, cache):
  """Where a finished run of ten steps is kept, to be copied; made by the first test that asks."""
  return tmp_path_factory.mktemp("template") / "run"


@pytest.fixture
def finished(template, tmp_path):
  """A run of ten steps with checkpoints 5 and 10, of its own."""
  import shutil

  if not template.exists():
    start(template, train__num_steps=10, train__checkpoint_every=5)
  return shutil.copytree(template, tmp_path / "run")


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
  with tiny.tiny_text(fingerprint="edited"), pytest.raises(UserError, match=r"text .* has changed"):
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
  from hc_jax.train.workdir import open_workdir

  config = tiny.config(train__checkpoint_every=5)
  with (
    open_workdir(str(finished), config),
    pytest.raises(UserError, match=f"process {os.getpid()}"),
  ):
    start(finished, train__checkpoint_every=5)


def largest(folder):
  return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder):
  file = largest(folder)
  os.truncate(file, file.stat().st_size // 2)


def flip(folder):
  file = largest(folder)
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


DAMAGE = {  # what is done to checkpoint 10, and what is said of it
  "truncated": (truncate, r"d/\w+ has [\d,]+ bytes in place of"),
  "a bit flipped": (flip, r"d/\w+ has changed: its SHA-256 is another"),
  "a file is missing": (lambda folder: largest(folder).unlink(), r"d/\w+ is missing"),
  "card torn": (lambda folder: truncate(folder / "card"), r"card/metadata has [\d,]+ bytes"),
  "metadata torn": (
    lambda folder: os.truncate(folder / "params/_METADATA", 10),
    "params/_METADATA has 10 bytes",
  ),
  "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_said(finished, capfd, recwarn, damage):
  before = {r["step"]: r for r in read_metrics(str(finished))}
  act, reason = DAMAGE[damage]
  act(finished / "checkpoints" / "10")
  capfd.readouterr()
  assert load_run(str(finished)).step == 5  # what hc-jax sample and analyze open
  assert re.fullmatch(f"checkpoint 10 is passed over: .*{reason}.*\n", capfd.readouterr().err)
  with pytest.raises(UserError, match=rf"no good checkpoint in .* \(10: .*{reason}"):
    load_run(str(finished), 10)

  start(finished, train__num_steps=10, train__checkpoint_every=5)
  out, err = capfd.readouterr()
  assert re.search(f"^checkpoint 10 is passed over: .*{reason}.*$", out, re.MULTILINE)
  assert f"checkpoint 10 is moved to {finished}/rejected/10" in out
  assert "resumed at step 5" in out
  gc.collect()
  assert (err, list(recwarn)) == ("", [])
  assert checkpoint.steps_of(str(finished)) == [5, 10]
  for row in read_metrics(str(finished)):
    for name in ("train/loss", "val/loss"):
      assert row.get(name) == before[row["step"]].get(name)


def test_when_all_are_damaged_nothing_is_moved(finished):
  for step in ("5", "10"):
    truncate(finished / "checkpoints" / step / "params")
  with pytest.raises(UserError, match=r"none of the checkpoints .* is good: 10: .*; 5: "):
    start(finished, train__checkpoint_every=5)
  assert checkpoint.steps_of(str(finished)) == [5, 10]


@pytest.fixture
def poisoned(monkeypatch):
  """A run that starts with a parameter that is no number."""
  begin = loop._begin

  def poison(*args):
    state, step = begin(*args)
    norm = state.params["token_embed"]["embedding"]
    state.params["token_embed"]["embedding"] = norm.at[:, 0].set(np.nan)
    return state, step

  monkeypatch.setattr(loop, "_begin", poison)


def test_divergence_stops_and_keeps_the_last_good_checkpoint(finished, poisoned):
  rows = read_metrics(str(finished))
  message = r"train/\w+ is nan at step 11; the last good checkpoint is step 10, .*debug_nans=true"
  with pytest.raises(NonFiniteError, match=message):
    start(finished, train__num_steps=30, train__checkpoint_every=1)
  assert checkpoint.steps_of(str(finished)) == [5, 10]
  assert read_metrics(str(finished)) == rows


def test_debug_nans_names_what_was_not_finite(finished, poisoned):
  message = r"First site: parameter token_embed/embedding was already NaN before the step"
  with pytest.raises(NonFiniteError, match=message):
    start(finished, train__num_steps=30, train__debug_nans=True)


def test_a_full_disk_at_a_checkpoint_leaves_the_older_ones(finished, monkeypatch):
  import orbax.checkpoint as ocp

  def full(*_, **__):
    raise ValueError("write failed: No space left on device")  # as TensorStore puts it

  monkeypatch.setattr(ocp.AsyncCheckpointer, "save", full)
  with pytest.raises(StorageError, match=r"checkpoint 12 .*: No space left on device\. Older"):
    start(finished, train__num_steps=12, train__checkpoint_every=5)
  assert checkpoint.steps_of(str(finished)) == [5, 10]


def test_a_full_disk_at_a_row_of_metrics(finished, monkeypatch):
  from hc_jax.train.metrics import Metrics

  class Full:
    def write(self, line):
      raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
      pass

  opened = Metrics.__init__

  def init(self, *args, **kwargs):
    opened(self, *args, **kwargs)
    self._file.close()
    self._file = Full()

  monkeypatch.setattr(Metrics, "__init__", init)
  with pytest.raises(StorageError, match=r"metrics\.jsonl could not be written: No space left"):
    start(finished, train__num_steps=12, train__checkpoint_every=5)
  assert checkpoint.steps_of(str(finished)) == [5, 10]


def around_call(owner, name, monkeypatch, before=None, after=None, at=1):
  """Has something run before or after the `at`-th call of a function."""
  real, calls = getattr(owner, name), []

  def wrapped(*args, **kwargs):
    calls.append(name)
    now = len(calls) == at
    if now and before:
      before()
    result = real(*args, **kwargs)
    if now and after:
      after()
    return result

  monkeypatch.setattr(owner, name, wrapped)


def stop():
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(0.2)  # a thread reads the signal


WHERE = {  # where the signal comes: owner, function, which call of it, step that is then saved
  "compilation": (loop, "compile_steps", 1, 0),
  "first evaluation": (loop, "evaluate", 1, 0),
  "step": (loop.Loop, "_settle", 2, 2),
  "evaluation": (loop, "evaluate", 2, 3),
  "save": (checkpoint.Checkpoints, "save", 1, 3),
  "save in the background": (checkpoint.Checkpoints, "save", 1, 3),
}


_FEW = ("step", "save in the background")


@pytest.mark.parametrize(
  "where", [w if w in _FEW else pytest.param(w, marks=pytest.mark.slow) for w in WHERE]
)
def test_sigterm_leaves_a_complete_checkpoint_and_changes_nothing(
  tmp_path, monkeypatch, capsys, where
):
  owner, name, at, step = WHERE[where]
  flags = {"train__num_steps": 6, "train__eval_every": 3, "train__checkpoint_every": 3}
  with monkeypatch.context() as patch:
    background = "background" in where
    around_call(owner, name, patch, at=at, **{"after" if background else "before": stop})
    if background:
      around_call(manifest, "write", patch, before=lambda: time.sleep(0.5))
    with pytest.raises(
      Stopped, match=r"stopped by SIGTERM after step \d, which is saved"
    ) as caught:
      start(tmp_path, **flags)
  assert caught.value.exit_code == 75
  newest = checkpoint.steps_of(str(tmp_path))[-1]
  assert newest == step and str(caught.value).count(f"step {newest},") == 1
  assert manifest.fault(checkpoint.path_of(str(tmp_path), newest), newest) is None
  capsys.readouterr()
  start(tmp_path, **flags)
  if newest:
    assert f"resumed at step {newest}" in capsys.readouterr().out
  rows = read_metrics(str(tmp_path))
  assert [row["step"] for row in rows] == list(range(7))
  assert [row["step"] for row in rows if "val/loss" in row] == [0, 3, 6]


def test_stopped_before_the_first_step_twice(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    for _ in range(2):
      around_call(loop, "compile_steps", patch, before=stop)
      with pytest.raises(Stopped, match="stopped by SIGTERM after step 0, which is saved"):
        start(tmp_path, train__num_steps=3)
      assert checkpoint.steps_of(str(tmp_path)) == [0]
  start(tmp_path, train__num_steps=3)
  assert [row["step"] for row in read_metrics(str(tmp_path))] == [0, 1, 2, 3]


def test_the_profile_holds_the_named_scopes(tmp_path):
  start(tmp_path, train__num_steps=4, train__profile="2:4", train__eval_every=0)
  traces = list(pathlib.Path(tmp_path, "profile").rglob("*.xplane.pb"))
  assert len(traces) == 1
  text = traces[0].read_bytes()
  for scope in (b"hc/coefs", b"hc/read", b"hc/write"):
    assert scope in text


def test_no_step_is_compiled_twice(tmp_path, monkeypatch):
  compiled, at = [], {}

  def record(event, *_, **__):
    compiled.append(event)

  steps = loop.Loop._settle

  def settle(self, *args):
    if self._pending:
      at[self._pending[0]] = sum("compile" in event for event in compiled)
    return steps(self, *args)

  monkeypatch.setattr(loop.Loop, "_settle", settle)
  jax.monitoring.register_event_duration_secs_listener(record)
  try:
    start(tmp_path, train__num_steps=8, train__eval_every=4, train__checkpoint_every=3)
  finally:
    jax.monitoring.unregister_event_duration_listener(record)
  assert at[1] > 0 and set(at.values()) == {at[1]}
  assert sum("compile" in event for event in compiled) == at[1]


@pytest.fixture
def no_cache_given(monkeypatch):
  """JAX as a user has it: no folder for compiled programs is set."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.slow
def test_compiled_programs_are_kept_beside_the_run(tmp_path, capsys, no_cache_given):
  flags = {"train__num_steps": 2, "train__compilation_cache": ".jax_cache"}
  said = []
  for name in ("a", "b"):
    start(tmp_path / name, **flags)
    said.append(capsys.readouterr().out)
  assert re.search(
    r"^compiling the .* step \.\.\.\ncompiled in [\d.]+ s, cache: 0 hits, 2 misses$", said[0], re.M
  )
  assert "cache: 2 hits, 0 misses\n" in said[1]
  assert sorted(os.listdir(tmp_path)) == [".jax_cache", "a", "b"]
  assert jax.config.jax_compilation_cache_dir is None


def test_what_is_compiled_after_the_first_step_is_said(tmp_path, capsys, monkeypatch):
  from hc_jax.train.metrics import Metrics

  write = Metrics.write

  def writing(self, row):
    write(self, row)
    if row["step"] in (2, 4):
      jax.jit(lambda x: x + row["step"])(np.ones(row["step"]))

  monkeypatch.setattr(Metrics, "write", writing)
  start(tmp_path, train__num_steps=6, train__eval_every=0)
  warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
  assert [re.findall(r"\d+ programs were compiled by step \d", line) for line in warnings] == [
    ["1 programs were compiled by step 3"],
    ["1 programs were compiled by step 5"],
  ]


def test_out_of_memory_says_what_helps(tmp_path, monkeypatch):
  """For real, but for where: parameters of 32 TiB."""
  too_much = lambda *_, **__: jax.numpy.zeros(2**43, "float32").block_until_ready()  # noqa: E731
  monkeypatch.setattr(loop, "create_state", too_much)
  with pytest.raises(OutOfMemoryError) as caught:
    start(tmp_path)
  message = str(caught.value)
  assert message.startswith("the device ran out of memory (")
  assert "Out of memory allocating 35184372088832 bytes" in message
  order = ["train.accumulation=2 (now 1", "model.remat=full (now none", "train.batch_size (now 8)"]
  places = [message.index(words) for words in order]
  assert places == sorted(places) and "data.length (now 32)" in message and "\n" not in message
  # The settings that it names may change on resume.
  with pytest.raises(OutOfMemoryError, match=r"train\.accumulation=8 \(now 4"):
    start(tmp_path, train__accumulation=4, model__remat="full")
  with pytest.raises(OutOfMemoryError) as caught:
    start(tmp_path, train__accumulation=8, model__remat="full")
  assert "accumulation" not in str(caught.value) and "remat" not in str(caught.value)


def test_only_out_of_memory_is_called_so():
  from hc_jax.train.errors import out_of_memory

  with pytest.raises(jax.errors.JaxRuntimeError), out_of_memory(tiny.config()):
    raise jax.errors.JaxRuntimeError("INTERNAL: something else")
  for words in ("RESOURCE_EXHAUSTED: x", "INTERNAL: Error dispatching computation: Out of memory"):
    with pytest.raises(OutOfMemoryError), out_of_memory(tiny.config()):
      raise jax.errors.JaxRuntimeError(words)


def test_what_the_compiler_is_told():
  assert compilation.compiler_options(True, "cpu") is None
  assert compilation.compiler_options(False, "gpu") is None
  options = compilation.compiler_options(True, "gpu")
  assert options == {"xla_gpu_deterministic_ops": True}
  # XLA knows the option, also where it has no effect; an unknown one is refused.
  assert jax.jit(lambda x: x + 1).lower(1.0).compile(options)(1.0) == 2.0
  with pytest.raises(jax.errors.JaxRuntimeError):
    jax.jit(lambda x: x + 1).lower(1.0).compile({"xla_gpu_deterministic_opts": True})
