"""Tests that a sweep expands into paired configs, and that a wrong sweep is refused."""

import pathlib

import pytest

from hc_jax import UserError
from hc_jax.ablate import load_sweep
from hc_jax.config import diff
from hc_jax.connections import CONNECTIONS
from tests.ablate.conftest import RESIDUAL

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SWEEPS = sorted((CONFIGS / "ablations").glob("*.py"))
QUICK = str(CONFIGS / "ablations" / "quick.py")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_loads_and_differs_in_its_connection_alone(path):
  sweep = load_sweep(str(path))
  assert sweep.baseline_arm == "residual" and len(sweep.seeds) >= 3
  base = sweep.config(sweep.groups()[0], 0)
  for group in sweep.groups():
    config = sweep.config(group, 5)
    keys = set(diff(base, config)) - {"seed", "model.block"}
    assert config.seed == 5 and all(key.startswith("model.connection.") for key in keys)


def test_the_arms_of_the_papers_tables_are_there():
  arms = {path.stem: list(load_sweep(str(path)).arms) for path in SWEEPS}
  streams = ["dhc1", "dhc2", "dhc4", "dhc8"]
  assert arms["expansion_rate"] == ["residual", *streams, *(f"{n}-no-tanh" for n in streams)]
  assert set(arms["static_vs_dynamic"]) == {"residual", "shc2", "shc4", "dhc2", "dhc4"}
  assert len(arms["trainable_parts"]) == 7
  assert {"residual", "altup2"} <= set(arms["related_work"])
  family = load_sweep(str(CONFIGS / "ablations" / "family.py"))
  names = {delta["model.connection.name"] for delta in family.arms.values()}
  assert names == set(CONNECTIONS) and {"shc4", "mhc-uniform"} <= set(family.arms)


def test_groups_cross_arms_with_learning_rates(make_sweep):
  sweep = make_sweep(learning_rates=(1e-3, 1e-2))
  assert [group.id for group in sweep.groups()] == [
    "residual-lr0.001",
    "dhc2-lr0.001",
    "residual-lr0.01",
    "dhc2-lr0.01",
  ]
  assert sweep.config(sweep.groups()[1], 3).optim.learning_rate == 1e-3
  one = make_sweep(
    learning_rates=(1e-2,)
  ).groups()  # named by rate, because other rates may follow in the same folder
  assert [group.id for group in one] == ["residual-lr0.01", "dhc2-lr0.01"]
  assert sweep.shared_rate == 1e-2


def test_an_arm_that_names_its_connection_starts_from_that_ones_defaults(make_sweep):
  sweep = make_sweep(arms={"residual": RESIDUAL, "same": {"model.connection.tanh": False}})
  residual, same = (sweep.config(group, 0).model.connection for group in sweep.groups())
  assert residual.num_streams is None and same.num_streams == 2 and same.tanh is False


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"train__mirror": "a"}, "train.mirror=.a. is for a single run"),
    ({"train__trackers": "a:b"}, r"train.trackers=\(.a:b.,\) is for a single run"),
    ({"arms": {}}, "no arms"),
    ({"arms": {"a/b": RESIDUAL}}, "arm 'a/b' cannot name a folder"),
    ({"arms": {"a": {"train.batch_size": 4}}}, "arm 'a' sets 'train.batch_size', but paired arms"),
    ({"arms": {"a": {"model.stream_dtype": "bfloat16"}}}, "sets 'model.stream_dtype'"),
    ({"arms": {"a": {"model.connection.num_stream": 4}}}, "arm 'a'.*did you mean.*num_streams"),
    ({"arms": {"a": RESIDUAL | {"model.connection.num_streams": "4"}}}, "takes a whole number"),
    ({"arms": {"a": RESIDUAL | {"model.connection.tanh": True}}}, "arm 'a'.*no field 'tanh'"),
    ({"arms": {"a": {"model.connection.name": "hcc"}}}, "connection 'hcc' is unknown"),
    ({"baseline": "b"}, "baseline='b' is not an arm; choose one of residual, dhc2"),
    ({"seeds": (1, 1)}, "none twice"),
    ({"seeds": ()}, "at least one"),
    ({"learning_rates": (1.0, 2.0)}, "must include the base's optim.learning_rate=0.01"),
    ({"learning_rates": (0.01, 0.01)}, "has one rate twice"),
  ],
)
def test_what_is_wrong_is_said(make_sweep, changes, words):
  with pytest.raises(UserError, match=words):
    make_sweep(**changes).check()


def test_overrides_change_the_base_of_all_arms():
  sweep = load_sweep(QUICK, ["--config.train.num_steps=7"], seeds=(4,), arms=["dhc4"])
  assert list(sweep.arms) == ["residual", "dhc4"] and sweep.seeds == (4,)
  assert {sweep.config(group, 4).train.num_steps for group in sweep.groups()} == {7}


def test_what_no_arm_would_see_is_refused():
  with pytest.raises(UserError, match="would change no arm"):
    load_sweep(QUICK, ["--config.model.connection.num_streams=8"])
  with pytest.raises(UserError, match="there is no arm 'dhc16'"):
    load_sweep(QUICK, arms=["dhc16"])
  with pytest.raises(UserError, match=r"'train.num_step'.*did you mean 'train.num_steps'"):
    load_sweep(QUICK, ["--config.train.num_step=7"])


@pytest.mark.parametrize(
  "text, words",
  [
    (None, "there is no config file"),
    ("x = 1", r"has no get_sweep\(\)"),
    ("def get_sweep():\n  return 3", "returns int; it must return hc_jax.ablate.Sweep"),
    ("def get_sweep():\n  return thing", r"mine.py:2: NameError"),
    ("def get_sweep(:", "SyntaxError"),
  ],
)
def test_a_file_that_is_no_sweep(tmp_path, text, words):
  if text is not None:
    (tmp_path / "mine.py").write_text(text)
  with pytest.raises(UserError, match=words):
    load_sweep(str(tmp_path / "mine.py"))
