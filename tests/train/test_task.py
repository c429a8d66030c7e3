"""A user's own task: its batches, its loss, refusals, exact resume."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hc_jax import UserError, sharding, train
from hc_jax.runs import checkpoint
from hc_jax.step.feed import to_devices
from hc_jax.train import Loss, Recipe, Telemetry, read_metrics
from hc_jax.train.compilations import Compilations
from tests.train import interrupted, line


def test_a_run_that_was_stopped_and_killed_equals_one_that_was_not(tmp_path, monkeypatch, capsys):
  straight, broken = tmp_path / "straight", tmp_path / "broken"
  settings = {"accumulation": 2, "optimizer": line.recipe(), "seed": 3}
  state = line.start(straight, **settings)
  interrupted.stop_and_kill(monkeypatch, capsys, broken, lambda: line.start(broken, **settings))
  interrupted.assert_same_run(straight, broken, 20)
  # The carried collection survived both interruptions: every row was counted once.
  assert int(state.collections["seen"]["rows"]) == 20 * line.ROWS
  stored = interrupted.saved(broken, 20)["collections"]["seen"]
  assert int(stored["rows"]) == 20 * line.ROWS
  card = json.loads((broken / "checkpoints/20/card/metadata").read_text())
  last = interrupted.measured(broken)[-1]
  assert (card["step"], card["task"], card["best"]) == (20, "line", "val/loss")
  assert card["val/loss"] == last["val/loss"] and card["data"] == {"slopes": [1.0, -2.0, 0.5]}
  assert {"train/loss", "train/off", "train/grad_norm", "train/learning_rate"} <= set(last)
  assert last["train/points"] == 20 * line.ROWS and last["val/rows"] == 10


def test_a_batch_in_parts_is_the_whole_batch(tmp_path):
  """Compares loss, metrics and carried collections; the parts have different weights."""
  states, rows = [], []
  for parts in (1, 4):
    task = line.task(noise=0.0)
    states.append(line.start(tmp_path / str(parts), task, accumulation=parts, num_steps=3))
    rows.append(interrupted.measured(tmp_path / str(parts)))
  chex.assert_trees_all_close(states[0].params, states[1].params, rtol=1e-5)
  assert [int(s.collections["seen"]["rows"]) for s in states] == [24, 24]
  for one, other in zip(*rows, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      assert one[name] == pytest.approx(other[name], rel=1e-4), name


def test_loss_and_metrics_are_sums_over_the_weight(tmp_path):
  """Computes the numbers of the first batch by hand."""
  line.start(tmp_path, line.task(noise=0.0), num_steps=1, seed=7)
  first, last = read_metrics(str(tmp_path))
  batch = line.Batches(7)[0]
  slopes = np.asarray(line.init(jax.random.key(7))["params"]["slopes"], np.float64)
  found = (batch["x"] @ slopes - batch["of"]["y"]) ** 2
  counts = batch["of"]["row"][1]
  assert 0 < counts.sum() < len(counts)
  assert last["train/loss"] == pytest.approx(found[counts].mean(), rel=1e-5)
  assert last["train/off"] == pytest.approx(np.sqrt(found[counts]).mean(), rel=1e-5)
  sums = [line.Batches(10**6)[s] for s in range(2)]
  off = [((b["x"] @ slopes - b["of"]["y"]) ** 2)[b["of"]["row"][1]] for b in sums]
  assert first["val/loss"] == pytest.approx(np.concatenate(off).mean(), rel=1e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_every_leaf_of_a_batch_arrives_as_it_was(devices):
  mesh = sharding.make_mesh("dp", devices=jax.devices()[:devices])
  batch = line.Batches(0)[5]
  there = to_devices(batch, mesh)
  chex.assert_trees_all_equal(jax.device_get(there), batch)
  assert [leaf.dtype for leaf in jax.tree.leaves(there)] == [
    leaf.dtype for leaf in jax.tree.leaves(batch)
  ]
  assert {leaf.sharding.num_devices for leaf in jax.tree.leaves(there)} == {devices}


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda b: b | {"k": np.float32(1)}, r"batch\['k'\] is a scalar; every leaf of a batch is"),
    (lambda b: b | {"more": [1, 2]}, r"batch\['more'\]\[0\] is a scalar"),
    (
      lambda b: b | {"of": b["of"] | {"z": np.ones(5)}},
      r"batch\['of'\]\['z'\] has 5 rows and batch\['of'\]\['row'\]\[0\] 8; every leaf",
    ),
    (lambda b: jax.tree.map(lambda x: x[:6], b), r"the 6 rows of .* do not divide over 4 devices"),
  ],
)
def test_batches_that_cannot_be_are_refused_by_the_leaf(change, words):
  mesh = sharding.make_mesh("dp", devices=jax.devices()[:4])
  with pytest.raises(UserError, match=words):
    to_devices(change(line.Batches(0)[0]), mesh)


def wrong_loss(change):
  """Returns a loss that applies `change` to the result of the right loss."""
  return lambda variables, batch, key: change(line.make_loss(0.1)(variables, batch, key))


def replaced(**changes):
  return wrong_loss(lambda found: found.replace(**changes))


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"name": ""}, r"Task\.name is empty; give it a word .* such as name='digits'"),
    ({"evaluate": None}, r"Task\.evaluate is None, but Task\.val has batches"),
    ({"summarise": None}, r"Task\.summarise is None, but Task\.val has batches"),
    ({"best": "val/los"}, r"Task\.best='val/los' is not among .* \(val/loss, val/rows\)"),
    (
      {"evaluate": lambda v, b: {"error": line.errors(v, b), "rows": line.weight(b)}},
      r"Task\.evaluate gives 'error' as an array \[8\]; give its sum",
    ),
    ({"init": lambda key: {"slopes": jnp.zeros(3)}}, "init makes slopes; it must make 'params'"),
    (
      {"loss": wrong_loss(lambda found: found.total)},
      r"Task\.loss gives \w+; return .*Loss\(total",
    ),
    (
      {"loss": wrong_loss(lambda f: f.replace(total=f.total[None]))},
      r"Loss\.total is an array \[1\]",
    ),
    ({"loss": replaced(metrics={"x": jnp.ones(8)})}, r"Loss\.metrics\['x'\] is an array \[8\]"),
    ({"loss": replaced(collections={"sen": {}})}, r"has 'sen', which is not .* \(seen\)"),
    ({"loss": replaced(collections={"params": {}})}, r"has 'params', which is not"),
    (
      {"loss": replaced(collections={"seen": {"rows": jnp.int32(1)}})},
      r"\['seen'\] has another structure than Task\.init gave it; return the whole collection",
    ),
    (
      {"loss": replaced(collections={"seen": {"rows": 1.0, "mean": jnp.zeros(3)}})},
      r"\['seen'\] has an array float32\[\] that Task\.init makes int32\[\]",
    ),
    (
      {"train": lambda seed: line.Batches(seed, count=19)},
      "`num_steps=20` is more than the 19 batch",
    ),
  ],
)
def test_a_task_that_cannot_be_trained_is_refused_before_the_first_step(tmp_path, changes, words):
  with pytest.raises(UserError, match=words):
    line.start(tmp_path, line.task(**changes))
  assert read_metrics(str(tmp_path)) == []


def test_telemetry_that_is_an_array_is_refused_before_the_first_step(tmp_path):
  telemetry = Telemetry(lambda variables, batch: {"x": jnp.ones(8)}, line.Batches(0)[0])
  with pytest.raises(UserError, match=r"Telemetry\.measure gives 'x' as an array \[8\]; give a sc"):
    line.start(tmp_path, line.task(telemetry=telemetry), telemetry_every=2)
  assert read_metrics(str(tmp_path)) == []


def test_parts_that_do_not_divide_the_rows_are_refused(tmp_path):
  with pytest.raises(UserError, match="`accumulation=3` does not divide the 8 rows of a batch"):
    line.start(tmp_path, accumulation=3)


def test_batches_that_are_just_enough_are_enough(tmp_path):
  """Trains with as many batches as steps, so that reading ahead passes their end."""
  state = line.start(
    tmp_path, line.task(train=lambda seed: line.Batches(seed, count=4)), num_steps=4
  )
  assert int(state.step) == 4


def test_batches_that_end_before_they_said_are_named_by_the_step(tmp_path):
  class Fewer(line.Batches):
    def __getitem__(self, s):
      if s >= 3:
        raise IndexError(s)
      return super().__getitem__(s)

  with pytest.raises(UserError, match=r"step 4 has no batch: Task\.train gives fewer"):
    line.start(tmp_path, line.task(train=Fewer))


def test_a_run_without_a_validation_set_keeps_the_newest(tmp_path):
  task = line.task(val=(), evaluate=None, summarise=None)
  line.start(tmp_path, task, checkpoint_every=4, keep=2)
  assert checkpoint.steps_of(str(tmp_path)) == [16, 20]
  assert not any(name.startswith("val/") for row in read_metrics(str(tmp_path)) for name in row)
  assert checkpoint.best_step(str(tmp_path)) is None


def test_the_best_is_kept_by_the_value_that_the_task_names(tmp_path):
  """Uses two values that are each other's inverse, so that the best step differs."""
  task = line.task(
    best="val/far", summarise=lambda s: {"val/loss": s["error"], "val/far": 1 / s["error"]}
  )
  line.start(tmp_path, task, num_steps=30, eval_every=10, keep=1)
  rows = {r["step"]: r for r in read_metrics(str(tmp_path)) if "val/far" in r and r["step"]}
  best = min(rows, key=lambda step: rows[step]["val/far"])
  assert checkpoint.best_step(str(tmp_path)) == best != min(rows, key=lambda s: rows[s]["val/loss"])
  assert checkpoint.steps_of(str(tmp_path)) == sorted({best, 30})
  run = train.load_task_run(str(tmp_path), task, "best")
  assert run.step == best
  assert train.evaluate_task(run)["val/far"] == pytest.approx(rows[best]["val/far"], rel=1e-6)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Trains the line for five steps."""
  folder = tmp_path_factory.mktemp("line") / "run"
  line.start(folder, num_steps=5, facts={"rate": 0.05})
  return folder


def test_what_a_run_was_begun_with_must_not_change(made):
  again = {"num_steps": 5, "facts": {"rate": 0.05}}
  with pytest.raises(
    UserError, match=r"slopes \[1\.0, -2\.0, 0\.5\] there, \[1\.0, -2\.0, 1\.0\] now"
  ):
    line.start(made, line.task(identity={"slopes": [1.0, -2.0, 1.0]}), **again)
  with pytest.raises(UserError, match=r"the data has changed .*slopes .* there, None now"):
    line.start(made, line.task(identity={}), **again)
  with pytest.raises(
    UserError, match=r"a run of the task 'line', but this is 'curve'; choose anoth"
  ):
    line.start(made, line.task(name="curve"), **again)
  with pytest.raises(UserError, match=r"facts\.rate 0\.05 -> 0\.1"):
    line.start(made, num_steps=5, facts={"rate": 0.1})
  with pytest.raises(UserError, match=r"seed 0 -> 1"):
    line.start(made, **again, seed=1)
  other = line.task(init=lambda key: line.init(key) | {"more": {"x": jnp.zeros(2)}})
  with pytest.raises(UserError, match=r"collections does not fit this task: more/x is missing"):
    line.start(made, other, **again)


def test_a_run_is_opened_with_the_task_and_evaluates_to_the_trainers_numbers(made):
  run = train.load_task_run(str(made), line.task())
  row = read_metrics(str(made))[-1]
  assert (run.step, run.card["task"]) == (row["step"], "line")
  assert int(run.variables["seen"]["rows"]) == 5 * line.ROWS
  assert train.evaluate_task(run)["val/loss"] == pytest.approx(row["val/loss"], rel=1e-6)
  with pytest.raises(UserError, match=r"the task 'line', but Task\.name is 'curve'; give the task"):
    train.load_task_run(str(made), line.task(name="curve"))
  with pytest.raises(UserError, match="cannot be evaluated; give it `val`"):
    train.evaluate_task(dataclasses.replace(run, task=line.task(val=())))
  with pytest.raises(UserError, match="trains the task 'line' and not a language model"):
    train.load_run(str(made))


@pytest.mark.parametrize("optimizer", [False, True])
def test_a_fork_takes_what_is_carried_too(made, tmp_path, optimizer):
  """Carried statistics belong to the weights, so a fork takes both."""
  fork = train.Fork(str(made), None, optimizer)
  line.start(tmp_path / "new", num_steps=6, facts={"rate": 0.05}, fork=fork)
  first = read_metrics(str(tmp_path / "new"))[0]
  if not optimizer:
    assert first["val/loss"] == read_metrics(str(made))[-1]["val/loss"]
  taken = 1 if optimizer else 6
  stored = interrupted.saved(tmp_path / "new", 6)["collections"]["seen"]
  assert int(stored["rows"]) == (5 + taken) * line.ROWS


def unusual(step, end):
  """Returns a rate by a schedule that needs `end` as a Python number."""
  return 0.05 if end > 25 else 0.05 * (1 - step / end)


def counted(workdir, **changes):
  with Compilations() as counts:
    state = line.start(workdir, **changes)
  return state, counts


def test_a_longer_run_compiles_nothing_anew(tmp_path):
  line.start(tmp_path, optimizer=line.recipe(), num_steps=4)
  state, counts = counted(tmp_path, optimizer=line.recipe(), num_steps=9)
  assert counts.misses == 0 and counts.hits > 0  # the suite has its cache of programs
  rows = read_metrics(str(tmp_path))
  assert int(state.step) == 9 and rows[-1]["train/learning_rate"] == pytest.approx(0.05 / 9)


def test_a_schedule_that_needs_its_end_as_a_number_works_and_compiles_again(tmp_path):
  recipe = Recipe(make=optax.sgd, rate=unusual, follows_end=False)
  line.start(tmp_path, optimizer=recipe, num_steps=4)
  _, counts = counted(tmp_path, optimizer=recipe, num_steps=26)
  rows = read_metrics(str(tmp_path))
  rate = {row["step"]: row["train/learning_rate"] for row in rows if row["step"]}
  assert rate[4] == pytest.approx(0.05 / 4) and rate[5] == pytest.approx(0.05)
  assert counts.programs > 0


def test_an_optimizer_alone_is_a_recipe(tmp_path):
  state = line.start(tmp_path, optimizer=optax.sgd(1e-2), num_steps=2)
  assert int(state.step) == 2
  assert "train/learning_rate" not in read_metrics(str(tmp_path))[-1]


def test_a_loss_without_metrics_and_collections_leaves_them_as_they_were(tmp_path):
  task = line.task(loss=lambda v, b, key: Loss(jnp.sum(line.errors(v, b))))
  state = line.start(tmp_path, task, num_steps=2)
  assert int(state.collections["seen"]["rows"]) == 0
