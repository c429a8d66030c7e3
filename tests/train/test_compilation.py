"""Compilation of a run: counts, messages and options; and the message when memory is too small."""

import os
import re

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from hc_jax.plan import out_of_memory
from hc_jax.train import OutOfMemoryError, loop, program
from tests.train import line, tiny


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
    line.start(tmp_path, num_steps=8, eval_every=4, checkpoint_every=3)
  finally:
    jax.monitoring.unregister_event_duration_listener(record)
  assert at[1] > 0 and set(at.values()) == {at[1]}
  assert sum("compile" in event for event in compiled) == at[1]


@pytest.fixture
def no_cache_given(monkeypatch):
  """Removes the suite's cache folder of compiled programs, as for a user of JAX."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
  yield
  jax.config.update("jax_compilation_cache_dir", before)
  compilation_cache.reset_cache()


def test_compiled_programs_are_kept_beside_the_run(tmp_path, capsys, no_cache_given):
  said = []
  for name in ("a", "b"):
    own = line.task(evaluate=lambda *args: line.evaluate(*args))  # JAX caches by function
    line.start(tmp_path / name, own, num_steps=2, compilation_cache=".jax_cache")
    said.append(capsys.readouterr().out)
  assert re.search(
    r"^compiling the .* step \.\.\.\ncompiled in [\d.]+ s, cache: 0 hits, 2 misses$", said[0], re.M
  )
  assert "cache: 2 hits, 0 misses\n" in said[1]
  assert sorted(os.listdir(tmp_path)) == [".jax_cache", "a", "b"]
  assert jax.config.jax_compilation_cache_dir is None


def test_what_is_compiled_after_the_first_step_is_said(tmp_path, capsys, monkeypatch):
  from hc_jax.runs.metrics import Metrics

  write = Metrics.write

  def writing(self, row):
    write(self, row)
    if row["step"] in (2, 4):
      jax.jit(lambda x: x + row["step"])(np.ones(row["step"]))

  monkeypatch.setattr(Metrics, "write", writing)
  line.start(tmp_path, num_steps=6, eval_every=0)
  warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
  assert [re.findall(r"\d+ programs were compiled by step \d", line) for line in warnings] == [
    ["1 programs were compiled by step 3"],
    ["1 programs were compiled by step 5"],
  ]


@pytest.mark.exhaustive
@pytest.mark.usefixtures("one_device")
def test_out_of_memory_says_what_helps(tmp_path, monkeypatch):
  """Allocates parameters of 32 TiB, so that the error is a real one."""
  too_much = lambda *_, **__: jax.numpy.zeros(2**43, "float32").block_until_ready()  # noqa: E731
  monkeypatch.setattr(program, "create_state", too_much)
  with pytest.raises(OutOfMemoryError) as caught:
    tiny.start(tmp_path)
  message = str(caught.value)
  assert message.startswith("the device ran out of memory (")
  assert "Out of memory allocating 35184372088832 bytes" in message
  order = ["train.accumulation=2 (now 1", "model.remat=full (now none", "train.batch_size (now 8)"]
  places = [message.index(words) for words in order]
  assert places == sorted(places) and "data.length (now 32)" in message
  # The plan of this config on this mesh follows.
  first, *table = message.splitlines()
  assert first.endswith("the same command with such a setting resumes")
  assert "mesh     dp: data 1, fsdp 1, tensor 1; 1 device" in table
  assert any(line.startswith("  none *") for line in table)
  # The settings that it names may change on resume.
  monkeypatch.setattr(out_of_memory, "_table", lambda *_: [])  # it takes seconds
  with pytest.raises(OutOfMemoryError, match=r"train\.accumulation=8 \(now 4"):
    tiny.start(tmp_path, train__accumulation=4, model__remat="full")
  with pytest.raises(OutOfMemoryError) as caught:
    tiny.start(tmp_path, train__accumulation=8, model__remat="full")
  first = str(caught.value).splitlines()[0]
  assert "accumulation" not in first and "remat" not in first


def test_only_out_of_memory_is_called_so(monkeypatch):
  def out_of_memory_of_the_run():
    return out_of_memory.out_of_memory(lambda: ["Something helps"])

  with pytest.raises(jax.errors.JaxRuntimeError), out_of_memory_of_the_run():
    raise jax.errors.JaxRuntimeError("INTERNAL: something else")
  for words in ("RESOURCE_EXHAUSTED: x", "INTERNAL: Error dispatching computation: Out of memory"):
    with pytest.raises(OutOfMemoryError), out_of_memory_of_the_run():
      raise jax.errors.JaxRuntimeError(words)


def test_what_the_compiler_is_told():
  assert program.compiler_options(True, "cpu") is None
  assert program.compiler_options(False, "gpu") is None
  options = program.compiler_options(True, "gpu")
  assert options == {"xla_gpu_deterministic_ops": True}
  # XLA accepts the option even where it has no effect, and refuses an unknown one.
  assert jax.jit(lambda x: x + 1).lower(1.0).compile(options)(1.0) == 2.0
  with pytest.raises(jax.errors.JaxRuntimeError):
    jax.jit(lambda x: x + 1).lower(1.0).compile({"xla_gpu_deterministic_opts": True})
