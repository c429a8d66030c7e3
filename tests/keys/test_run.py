"""Every key of the run itself (seed, train, workers, mesh) shows in the files or calls of a run.

Both runs are real; their model is only a table of logits. They differ in every key, and each key is
observed in a place that no other key changes.
"""

import contextlib
import functools

import flax.linen as nn
import fsspec
import jax
import jax.numpy as jnp
import pytest

from hc_jax import UserError, data, models, train
from hc_jax.runs import checkpoint
from hc_jax.train import language, loop, program, start
from hc_jax.train.start import language_program
from tests.keys.table import Row, Tracker, changed, pair
from tests.train import tiny

# key: its values in the two runs, and the observations.
RUN = {
  "seed": ((3, 4), ([0, 3], [0, 4])),
  "data.workers": ((0, 1), (0, 1)),
  # Observed: last step, and the rate there as a share of the peak, in a linear decay to a tenth.
  "train.num_steps": ((6, 8), ((6, 0.325), (8, 0.25))),
  "train.batch_size": ((2, 4), (2 * 4, 4 * 4)),  # tokens of a step
  "train.accumulation": ((1, 2), (1, 2)),
  "train.loss_parts": ((1, 2), (1, 2)),
  "train.eval_every": ((2, 3), ([0, 2, 4, 6], [0, 3, 6, 8])),
  "train.eval_batches": ((2, 3), (2 * 2, 3 * 4)),  # windows of an evaluation
  "train.checkpoint_every": ((2, 5), ([2, 4, 6], [5, 8])),
  "train.keep": ((9, 1), ([2, 4, 6], [8])),
  "train.log_every": ((1, 3), ([1, 2, 3, 4, 5, 6], [1, 3, 6, 8])),
  "train.telemetry_every": ((2, 5), ([2, 4, 6], [5])),
  "train.mirror": (("", "memory://keys"), ([], ["checkpoints", "config.json", "metrics.jsonl"])),
  "train.trackers": (((), ("tests.keys.table:Tracker",)), ([], [1, 3, 6, 8])),
  "train.profile": (("", "2:4"), ([], ["profile"])),
  "train.compilation_cache": (("", "kept"), ("", "kept")),
  "train.deterministic": ((False, True), (False, True)),
  "train.debug_nans": ((False, True), (True, False)),  # whether the state is donated
}


class Table(nn.Module):
  """Model with one table of logits for every token, split in two, as a loss in parts needs."""

  vocab_size: int

  def setup(self):
    init = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab", "embed"))
    self.table = self.param("embedding", init, (self.vocab_size, 8))

  def __call__(self, tokens, *, segment_ids=None, deterministic=True):
    return self.logits(self.hidden(tokens))

  def hidden(self, tokens, *, segment_ids=None, deterministic=True):
    return jnp.ones((*tokens.shape, 8), jnp.float32)

  def logits(self, hidden):
    return hidden @ self.table.T


@pytest.fixture(scope="module")
def table():
  """Makes every model a table, and every text the tiny one."""
  with pytest.MonkeyPatch.context() as patch, tiny.tiny_text():
    patch.setattr(models, "make_model", lambda config, vocab_size: Table(vocab_size))
    yield patch


@contextlib.contextmanager
def watched(patch):
  """Records the arguments of calls during a run, by key."""
  notes = {"train.profile": []}

  def note(owner, name, look):
    old = getattr(owner, name)

    @functools.wraps(old)
    def call(*args, **kwargs):
      look(*args, **kwargs)
      return old(*args, **kwargs)

    patch.setattr(owner, name, call)

  def of_step(of):
    notes["train.debug_nans"] = not of.settings.debug_nans
    notes["train.accumulation"] = of.settings.accumulation

  def of_evaluation(step, variables, batches, mesh):
    notes["train.eval_batches"] = sum(int((b["mask"].sum(-1) > 0).sum()) for b in batches)

  saves = notes["train.checkpoint_every"] = []
  note(data, "iterate", lambda batches, start, workers: notes.update({"data.workers": workers}))
  note(program, "jit_step", of_step)
  note(program, "compiler_options", lambda on, _: notes.update({"train.deterministic": on}))
  note(program, "batch_sums", of_evaluation)
  parts = lambda model, parts: notes.update({"train.loss_parts": parts})  # noqa: E731
  note(language, "token_loss", parts)
  notes["eta"] = []
  note(loop.Console, "train", lambda self, step, rows, eta: notes["eta"].append(eta))
  note(start, "cache", lambda spec, *_, **__: notes.update({"train.compilation_cache": spec}))
  note(checkpoint.Checkpoints, "save", lambda self, state, step, *_: saves.append(step))
  patch.setattr(language, "telemetry", lambda *_, **__: {"hc/offdiag": jnp.zeros(())})
  patch.setattr(
    jax.profiler, "start_trace", lambda path: notes["train.profile"].append(path.split("/")[-1])
  )
  patch.setattr(jax.profiler, "stop_trace", lambda: None)
  yield notes


@pytest.fixture(scope="module")
def seen(table, tmp_path_factory):
  """Trains both runs; returns the observations of each, by key."""
  found, memory = [], fsspec.filesystem("memory")
  for i in range(2):
    folder = tmp_path_factory.mktemp("runs")
    config, _ = pair("seed", Row(1, LINEAR))
    config = changed(config, {key: values[i] for key, (values, _) in RUN.items()})
    with pytest.MonkeyPatch.context() as patch, watched(patch) as notes:
      one = jax.devices()[:1]
      patch.setattr(jax, "devices", lambda *_, one=one: one)
      state = train.train_and_evaluate(config, str(folder / "run"))
    rows = train.read_metrics(str(folder / "run"))
    steps = {name: [row["step"] for row in rows if name in row] for name in ALL_NAMES}
    found.append(
      notes
      | {
        "rows": rows,
        "train.mirror": [path.split("/")[-1] for path in sorted(memory.glob("/keys/*"))],
        "train.trackers": [step for name, step in Tracker.given if name == "train/loss"],
        "seed": state.rng.tolist(),
        "train.num_steps": (int(state.step), round(rows[-1]["train/learning_rate"], 6)),
        "train.batch_size": next(r["train/tokens"] for r in rows if r["step"] == 1),
        "train.eval_every": steps["val/loss"],
        "train.keep": checkpoint.steps_of(str(folder / "run")),
        "train.log_every": steps["train/loss"],
        "train.telemetry_every": steps["hc/offdiag"],
      }
    )
  return found


LINEAR = {"optim.schedule": "linear", "optim.warmup_steps": 2}
LINEAR |= {"optim.learning_rate": 1.0, "optim.end_fraction": 0.1}
ALL_NAMES = ("train/loss", "val/loss", "hc/offdiag")


@pytest.mark.parametrize("key", RUN)
def test_a_key_of_the_run_is_seen_in_the_run(seen, key):
  _, expected = RUN[key]
  assert tuple(run[key] for run in seen) == expected


def test_tokens_and_rates_of_a_row_agree(seen):
  """Checks tokens and rate of a row, for rows of one step and of several steps."""
  for run in seen:
    tokens = run["train.batch_size"]
    rows = [row for row in run["rows"] if "train/loss" in row]
    assert [row["train/tokens"] for row in rows] == [row["step"] * tokens for row in rows]
    for row in rows:
      assert row["perf/tokens_per_s"] * row["perf/step_s"] == pytest.approx(tokens)
    assert run["eta"][-1] == 0 < min(run["eta"][:-1])


def mesh(preset, data, fsdp, tensor):
  return {"mesh.preset": preset, "mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}


# key: another value, and the sizes of the mesh of eight devices before and after.
MESH = {
  "data": (Row(2, mesh("fsdp_tp", 1, -1, 2)), (1, 4, 2), (2, 2, 2)),
  "fsdp": (Row(4, mesh("fsdp", -1, 2, 1)), (4, 2, 1), (2, 4, 1)),
  "tensor": (Row(4, mesh("fsdp_tp", -1, 1, 2)), (4, 1, 2), (2, 1, 4)),
}


def placed(config):
  """Returns the sizes of a task's mesh, and the axes over which its table is split."""
  made = language_program(changed(config, {"train.batch_size": 8}), log=lambda line: None)
  return tuple(made.mesh.shape.values()), tuple(made.abstract.params["embedding"].sharding.spec)


@pytest.mark.parametrize("key", MESH)
def test_a_key_of_the_mesh_changes_its_sizes(table, key):
  row, *expected = MESH[key]
  assert [placed(config)[0] for config in pair(f"mesh.{key}", row)] == expected


def test_the_preset_says_what_is_split(table):
  split, _ = pair("seed", Row(1, mesh("fsdp", -1, 4, 1)))
  assert placed(split) == ((2, 4, 1), (None, "fsdp"))
  whole, refused = pair("mesh.preset", Row("fsdp", mesh("dp", -1, 1, 1)))
  assert placed(whole) == ((8, 1, 1), (None, None))
  with pytest.raises(UserError, match=r"mesh\.preset=fsdp"):
    placed(refused)
