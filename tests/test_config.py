"""Tests that configs load, are overridden and compared, and that wrong ones are refused."""

import importlib.util
import json
import pathlib

import pytest

import hc_jax as hc
import hc_jax.config
from hc_jax import config_keys
from hc_jax.config import diff, from_json, load_config, to_json
from hc_jax.config_keys import keys
from hc_jax.connections import CONNECTIONS, connection_fields
from hc_jax.fields import fields_of

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "__init__")
BASE = str(CONFIGS / "base.py")


def load(*overrides, name="base"):
  return load_config(
    str(CONFIGS / f"{name}.py"), [f"--config.{override}" for override in overrides]
  )


def made(*overrides, name="base"):
  """Loads a config and makes its model, which refuses fields that do not go together."""
  model = load(*overrides, name=name).model
  return hc.models.make_model(model, None if model.vocab_size else 1)


def test_the_configs_of_the_readme_are_there():
  assert {"base", "large", "olmo_1b", "olmo_7b", "quickstart", "small"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_loads_and_makes_its_model(name):
  config = load(name=name)
  assert config.is_locked
  model = hc.models.make_model(config.model, vocab_size=257)
  assert model.d_model == config.model.d_model
  # a delta sets only keys that base.py has
  assert _keys(config) == _keys(load())


def flat(node, prefix=""):
  """Returns a config as dotted keys and values."""
  out = {}
  for key, value in node.items():
    out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
  return out


def _keys(config):
  return set(flat(config.to_dict()))


@pytest.mark.parametrize(
  "override, key, value",
  [
    ("seed=7", "seed", 7),
    ("train.num_steps=1_000", "train.num_steps", 1000),
    ("optim.learning_rate=3", "optim.learning_rate", 3.0),
    ("optim.learning_rate=1e-3", "optim.learning_rate", 1e-3),
    ("model.scan=true", "model.scan", True),
    ("model.scan=1", "model.scan", True),
    ("model.qk_norm=True", "model.qk_norm", True),
    ("model.vocab_size=none", "model.vocab_size", None),
    ("model.remat=none", "model.remat", "none"),
    ("model.num_kv_heads=4", "model.num_kv_heads", 4),
    ("model.stream_dtype=float32", "model.stream_dtype", "float32"),
    ("model.connection.num_streams=2", "model.connection.num_streams", 2),
    ("model.connection.tanh=false", "model.connection.tanh", False),
    ("model.connection.norm=rmsnorm", "model.connection.norm", "rmsnorm"),
    ("model.connection.norm_eps=0.1", "model.connection.norm_eps", 0.1),
    ("data.files=a.txt,notes/", "data.files", ("a.txt", "notes/")),
    ("data.files=('a b.txt','c')", "data.files", ("a b.txt", "c")),
    ("data.files=['a']", "data.files", ("a",)),
    ("data.files=()", "data.files", ()),
    ("data.files=", "data.files", ()),
    ("data.files=('ab')", "data.files", ("ab",)),
    ("data.dir=a=b", "data.dir", "a=b"),
    ("train.profile=3:5", "train.profile", "3:5"),
  ],
)
def test_overrides(override, key, value):
  config = load(override)
  found = flat(config.to_dict())[key]
  assert (found, type(found)) == (value, type(value))
  assert diff(config, load()) == ([] if value == () else [key])


@pytest.mark.parametrize(
  "override, words",
  [
    (
      "model.connection.num_stream=2",
      "'model.connection.num_stream'.*'model.connection.num_streams'",
    ),
    ("model.nmu_layers=2", "unknown config key 'model.nmu_layers'.*'model.num_layers'"),
    ("num_layers=2", "unknown config key 'num_layers'.*'model.num_layers'"),
    ("modle.num_layers=2", "unknown config key 'modle'.*'model.num_layers'"),
    ("seed.x=2", "unknown config key 'seed.x'"),
    ("model=2", "'model' is a group; set one of activation, .*d_model"),
    ("train.num_steps=ten", "'train.num_steps' takes a whole number, not 'ten'"),
    ("train.num_steps=1.5", "'train.num_steps' takes a whole number"),
    ("train.num_steps=none", "'train.num_steps' takes a whole number"),
    ("model.scan=none", "'model.scan' takes true or false"),
    ("optim.learning_rate=fast", "'optim.learning_rate' takes a number"),
    ("model.scan=yes", "'model.scan' takes true or false"),
    ("model.connection.tanh=2", "'model.connection.tanh' takes true or false"),
    ("data.files=('a'", "'data.files' takes a list"),
    ("model.norm=none", "model.norm='none'"),
    ("model.num_heads=7", "model.d_model=1024 is not divisible by num_heads=7"),
    ("model.num_heads=0", "model.num_heads=0 must be at least 1"),
    ("model.num_kv_heads=5", "model.num_heads=16 is not divisible by num_kv_heads=5"),
    ("train.accumulation=3", "train.batch_size=256 is not divisible by train.accumulation=3"),
    ("data.length=4096", "data.length=4096 exceeds model.max_length=2048"),
    ("data.length=0", "data.length=0 must be at least 1"),
    ("model.num_layers=0", "model.num_layers=0 must be at least 1"),
    ("train.keep=0", "train.keep=0 must be at least 1"),
    ("optim.warmup_steps=-1", "optim.warmup_steps=-1 must be at least 0"),
    ("model.dropout=1", "model.dropout=1.0 must be less than 1"),
    (
      "model.causal=false",
      "model.causal=False cannot be trained on the next token: every position",
    ),
    ("model.init_std=-1", "model.init_std=-1.0 must be at least 0"),
    ("model.connection.num_streams=0", "num_streams=0 must be at least 1"),
    ("model.connection.name=hcc", "connection 'hcc' is unknown; choose one of residual, hc"),
    ("model.activation=relu", "model.activation='relu' is unknown; choose one of gelu, swiglu"),
    ("model.norm=layernrom", "'layernrom' is unknown.*did you mean 'layernorm'"),
    ("model.positions=alibi", "model.positions='alibi' is unknown"),
    ("model.remat=ful", "model.remat='ful' is unknown.*did you mean 'full'"),
    (
      "model.remat=blocks:5",
      "model.remat='blocks:5' makes groups of 5 .* 24: choose 'blocks:2' or",
    ),
    ("model.dtype=float8", "model.dtype='float8' is unknown"),
    ("model.stream_dtype=int8", "model.stream_dtype='int8' is unknown"),
    ("model.norm_position=mid", "model.norm_position='mid' is unknown"),
    ("model.connection.norm=batch", "model.connection.norm='batch' is unknown"),
    ("model.block=diagonal", "model.block='diagonal' is unknown; choose one of sequential"),
    ("model.block=dual", r"model\.block='dual' is ResiDual .* open an old run with the version"),
    ("model.expand=scale", "model.expand='scale' is unknown.*did you mean 'scaling'"),
    ("model.reduce=max", "model.reduce='max' is unknown; choose one of sum, mean, head"),
    ("model.expand_init_std=-1", "model.expand_init_std=-1.0 must be at least 0"),
    ("model.connection.num_views=3", "num_views=3, but this branch takes 1 input"),
    ("model.layers=((2,'hc'),(3,'hc'))", r"2 \+ 3 = 5 layers, but num_layers=24; set num_layers=5"),
    ("model.layers=(2,'hc')", r"model.layers\[0\]=2 is not a segment; write \(count, name\)"),
    ("model.layers=(('hc',24),)", r"model.layers\[0\]=\('hc', 24\): a segment is \(count, name\)"),
    ("model.layers=((24,'hcc'),)", r"model.layers\[0\]: connection 'hcc' is unknown"),
    ("model.layers=((24,{'num_streams':2}),)", "has no name; {} alone stands for"),
    (
      "model.layers=((24,{'name':'hc','num_streams':'2'}),)",
      r"model.layers\[0\]: num_streams='2' must be a whole number",
    ),
    (
      "model.layers=((24,{'name':'hc','tanh':1}),)",
      r"model.layers\[0\]: tanh=1 must be true or false",
    ),
    (
      "model.layers=((24,{'name':'residual','tanh':True}),)",
      r"model.layers\[0\]: connection 'residual' has no field 'tanh'",
    ),
    (
      "model.layers=((20,'hc'),(4,{'name':'frac','fractions':3}))",
      r"d_model=1024 cannot be cut into fractions=3: 1024 / 3 = 341\.333; choose .*\(2, 4, 8, 16\)",
    ),
  ],
)
def test_what_is_wrong_is_said(override, words):
  with pytest.raises(hc.UserError, match=words):
    made(override)


def test_an_odd_head_cannot_turn():
  with pytest.raises(hc.UserError, match=r"= 3; choose an even width"):
    made("model.d_model=48", "model.positions=rotary")


def test_a_field_that_the_connection_lacks_is_refused():
  for field in ("tanh=true", "dynamic=false", "norm=layernorm"):
    with pytest.raises(hc.UserError, match=f"'residual' has no field '{field.split('=')[0]}'"):
      made("model.connection.name=residual", f"model.connection.{field}")


@pytest.mark.parametrize("text", ["model.scan=true", "--model.scan=true", "--config.model.scan"])
def test_what_is_no_override_is_refused(text):
  with pytest.raises(hc.UserError, match=r"write --config\.group\.key=value"):
    load_config(BASE, [text])


def test_a_missing_file_names_its_neighbour(tmp_path):
  with pytest.raises(
    hc.UserError, match=r"no config file .*quickstrat.py; did you mean '.*/configs/quickstart.py'"
  ):
    load_config(str(CONFIGS / "quickstrat.py"))
  for far in (tmp_path / "x.py", CONFIGS / "mine.py", CONFIGS / "nowhere" / "quickstart.py"):
    with pytest.raises(hc.UserError, match="no config file") as caught:
      load_config(str(far))
    assert "did you mean" not in str(caught.value)


def test_a_file_that_is_no_config_is_refused(tmp_path):
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(hc.UserError, match=r"has no get_config\(\)"):
    load_config(str(tmp_path / "empty.py"))
  (tmp_path / "notes.txt").write_text("seed = 1")
  with pytest.raises(hc.UserError, match=r"no Python file"):
    load_config(str(tmp_path / "notes.txt"))


def test_a_config_of_ones_own_is_a_delta_of_base(tmp_path):
  text = """
from configs import base

def get_config():
  c = base.get_config()
  c.seed = 3
  return c
"""
  (tmp_path / "mine.py").write_text(text)
  config = load_config(str(tmp_path / "mine.py"), ["--config.train.num_steps=5"])
  assert diff(config, load()) == ["seed", "train.num_steps"]


@pytest.mark.parametrize("name", NAMES)
def test_json_round_trip(name):
  config = load("data.files=('a','b')", name=name)
  values = json.loads(json.dumps(to_json(config)))
  back = from_json(values)
  assert back.to_dict() == config.to_dict()
  assert diff(back, config) == diff(values, config) == []
  assert back.is_locked and back.data.files == ("a", "b")


def test_a_run_older_than_a_key_takes_its_default():
  values = to_json(load("seed=5"))
  del values["model"]["qk_norm"], values["mesh"]
  config = from_json(values, defaults=load())
  assert (config.model.qk_norm, config.mesh.preset, config.seed) == (False, "dp", 5)
  assert diff(config, load()) == ["seed"]
  assert "model.qk_norm" in diff(values, load())


def test_the_base_has_every_declared_key_and_keeps_its_type():
  """A new key must be added to ADDED too, so that older runs can be read."""
  base, declared = load(), keys()
  assert set(flat(base.to_dict())) == set(declared)
  for key, found in declared.items():
    *groups, name = key.split(".")
    group = base
    for part in groups:
      group = group[part]
    assert group.get_type(name) is (object if found.words else found.kind), key
  assert config_keys.ADDED.keys() <= declared.keys()


def test_every_key_says_what_it_means():
  assert [key for key, found in keys().items() if not found.meaning] == []


@pytest.mark.parametrize(
  ("key", "value", "words"),
  [
    ("seed", "1", "seed='1' must be a whole number"),
    ("seed", True, "seed=True must be a whole number"),
    ("seed", 10**30, "seed=1000.* must be at most 4294967295"),
    ("optim.b1", "x", "optim.b1='x' must be a number"),
    ("model.scan", 1, "model.scan=1 must be true or false"),
    ("model.d_model", None, "model.d_model=None must be a whole number"),
    ("data.files", "abc", "data.files='abc' must be a list"),
    ("data.files", [1], r"data.files=\(1,\) must be a list"),
    ("model.connection.num_streams", [4], "must be a whole number"),
    ("model.connection", 3, "connection is not a group"),
  ],
)
def test_a_saved_value_of_another_type_is_named(key, value, words):
  values = to_json(load())
  *groups, name = key.split(".")
  group = values
  for part in groups:
    group = group[part]
  group[name] = value
  with pytest.raises(ValueError, match=words):
    from_json(values)


def test_a_key_that_is_missing_is_named():
  fields = {f"model.connection.{name}" for cls in CONNECTIONS.values() for name in fields_of(cls)}
  fields -= {"model.connection.name"}
  for key in sorted({*keys()} - fields - {*config_keys.ADDED}):
    values = to_json(load())
    *groups, name = key.split(".")
    group = values
    for part in groups:
      group = group[part]
    del group[name]
    with pytest.raises(hc.UserError, match=f"the config has no key {key}: "):
      hc.config.check(from_json(values))
    assert config_keys.missing_keys(values) == [key]
  values = to_json(load())
  del values["model"]["layers"], values["model"]["connection"]["num_streams"]
  hc.config.check(from_json(values))


def test_the_fields_of_connections_are_keys():
  fields = {field for cls in CONNECTIONS.values() for field in connection_fields(cls)}
  assert set(load().model.connection) == {"name", *fields}


def test_segments_are_a_key_like_others():
  text = "((4,'residual'),(18,{'name':'frac','fractions':2}),(2,{}))"
  config = load(f"model.layers={text}", "model.connection.num_streams=3")
  back = from_json(json.loads(json.dumps(to_json(config))))
  assert back.to_dict() == config.to_dict() and diff(back, config) == []
  assert diff(back, load("model.connection.num_streams=3")) == ["model.layers"]
  model = hc.models.make_model(back.model)
  counts, connections = zip(*model._segments(), strict=True)
  made = [connection(parent=None) for connection in connections]
  assert (counts, model.num_layers) == ((4, 18, 2), 24)
  assert [type(c).__name__ for c in made] == ["Residual", "FracConnection", "HyperConnection"]
  assert [(c.num_streams, c.fractions) for c in made] == [(1, 1), (2, 2), (3, 1)]


def test_fields_that_no_segment_takes_are_refused():
  with pytest.raises(hc.UserError, match=r"model.connection.tanh is set, but .*\(count, {}\)"):
    made("model.layers=((24,'hc'),)", "model.connection.tanh=false")


def test_fractions_must_divide_the_width():
  with pytest.raises(hc.UserError, match=r"FracConnection: d_model=1024 .* 1024 / 3 = 341\.333"):
    made("model.connection.name=frac", "model.connection.fractions=3")


def test_make_model_wants_a_vocabulary_that_fits():
  config = load(name="quickstart").model
  with pytest.raises(hc.UserError, match="vocab_size is unset"):
    hc.models.make_model(config)
  assert hc.models.make_model(config, vocab_size=257).vocab_size == 257
  with pytest.raises(hc.UserError, match=r"model\.vocab_size=50257 is smaller than.*60000"):
    hc.models.make_model(load().model, vocab_size=60000)
  assert hc.models.make_model(load().model, vocab_size=257).vocab_size == 50257


@pytest.mark.parametrize(
  "line, words",
  [
    ("c.train.num_step = 3", r'mine.py:4: AttributeError.*num_step.*Did you mean "num_steps"'),
    ("c.model.num_layers = 'two'", r"mine.py:4: TypeError"),
    ("c.model.num_heads = 1 / 0", r"mine.py:4: ZeroDivisionError: division by zero"),
  ],
)
def test_a_file_with_a_mistake_in_it_is_named_with_the_line(tmp_path, line, words):
  text = (
    f"from configs import base\ndef get_config():\n  c = base.get_config()\n  {line}\n  return c\n"
  )
  (tmp_path / "mine.py").write_text(text)
  with pytest.raises(hc.UserError, match=f"(?s){words}"):
    load_config(str(tmp_path / "mine.py"))


def test_the_table_of_keys_is_that_of_the_classes(monkeypatch):
  spec = importlib.util.spec_from_file_location(
    "table", CONFIGS.parent / "scripts/table_of_keys.py"
  )
  table = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(table)
  for name, cls in list(CONNECTIONS.items()):  # a copy, because other tests may register more
    if not cls.__module__.startswith("hc_jax.") or ".contrib" in cls.__module__:
      monkeypatch.delitem(CONNECTIONS, name)
  assert table.TARGET.read_text() == table.generate(), f"run {table.COMMAND}"
