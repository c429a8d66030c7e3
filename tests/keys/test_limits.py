"""Every key refuses invalid values, with exit code 2 and its name, and accepts its limits.

Cases are generated from the declarations, so that a new key is tested without a new row.
"""

import json

import pytest

from hc_jax import UserError, cli
from hc_jax import config as config_lib
from hc_jax.ablate.sweep import Sweep
from hc_jax.config_keys import keys, wrong
from hc_jax.connections import CONNECTIONS, connection_fields
from hc_jax.fields import LARGEST

NAN, INF = float("nan"), float("inf")
# Keys that accept any text except the empty one, because they are looked up only when opened.
NAMES = {"data.tokenizer", "data.field", "data.name"}
# For each field of a connection, the first variant that has it.
HOLDERS = {
  f"model.connection.{field}": name
  for name, cls in reversed(CONNECTIONS.items())
  for field in connection_fields(cls)
}
KEYS = {key: found for key, found in keys().items() if key in HOLDERS or "connection" not in key}


def bad_values(key):
  """Yields values that a key refuses, as Python objects."""
  found = KEYS[key]
  if found.kind in (int, float):
    yield from (10**400, -(10**400), "x")
    yield from (NAN, INF, -INF) if found.kind is float else (10**20, -(10**20), 1.5, NAN)
    if found.least is not None:
      yield found.least - 1
    if found.most is not None:
      yield found.most + 1
    yield from (value for value in (found.above, found.below) if value is not None)
  elif found.kind is bool:
    yield from (2, "x", NAN)
  elif found.kind is tuple:
    yield from (3, "x")
  else:
    yield from (3, NAN)
    if found.choices or found.check:
      yield "" if key in NAMES else "no such word"
  if not found.unset:
    yield None


def good_values(found):
  """Yields values at the limits of a number."""
  if found.kind in (int, float) and found.check is None:
    largest = LARGEST[found.kind]
    if found.above is None:
      yield found.kind(-largest if found.least is None else found.least)
    if found.below is None:
      yield found.kind(largest if found.most is None else found.most)
  yield from found.choices
  yield from found.words
  if found.unset:
    yield None


@pytest.fixture(scope="module")
def base():
  return config_lib.to_json(config_lib.load_config("base"))


def changed(base, key, value):
  """Returns the values of a config with another value for a key, and a connection that has it."""
  values = json.loads(json.dumps(base))
  if key in HOLDERS:
    values["model"]["connection"]["name"] = HOLDERS[key]
  *groups, name = key.split(".")
  group = values
  for part in groups:
    group = group[part]
  group[name] = value
  return values


@pytest.mark.parametrize("key", KEYS)
def test_a_saved_config_with_such_a_value_is_refused(base, key):
  taken = []
  for value in bad_values(key):
    try:
      config_lib.from_json(changed(base, key, value))
    except ValueError as error:
      assert str(error).startswith(f"{key}="), str(error)
    else:
      taken.append(value)
  assert taken == []


@pytest.mark.parametrize("key", KEYS)
def test_limits_and_words_are_taken(base, key):
  for value in good_values(KEYS[key]):
    assert wrong(config_lib._tuples(changed(base, key, value))) is None


@pytest.mark.parametrize("key", KEYS)
def test_the_command_line_is_refused_with_exit_code_2(key, capsys):
  name = f"--config.model.connection.name={HOLDERS.get(key, 'hc')}"
  texts = [str(value) for value in bad_values(key) if value is not None]
  if KEYS[key].kind is str:  # a number is valid text
    texts = [value for value in bad_values(key) if isinstance(value, str)]
  for text in texts[-2:] if key != "data.files" else ():
    assert cli.main(["params", "quickstart", name, f"--config.{key}={text}"]) == 2, text
    message = capsys.readouterr().err
    assert message.startswith("error: ") and key in message and message.count("\n") == 1


@pytest.mark.parametrize("key", [key for key, found in KEYS.items() if found.kind is float])
def test_a_config_file_that_sets_nan_is_refused(tmp_path, key):
  text = f"""
from configs import base

def get_config():
  c = base.get_config()
  c.model.connection.name = {HOLDERS.get(key, "hc")!r}
  c.{key} = float("nan")
  return c
"""
  (tmp_path / "mine.py").write_text(text)
  with pytest.raises(UserError, match=f"^{key}=nan must be a finite number"):
    config_lib.load_config(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"seeds": (0, 1.5)}, r"seeds\[1\]=1.5 must be a whole number"),
    ({"seeds": (10**20,)}, r"seeds\[0\]=100000000000000000000 must be at most 4294967295"),
    ({"seeds": (0, -1)}, r"seeds\[1\]=-1 must be at least 0"),
    ({"seeds": (True,)}, r"seeds\[0\]=True must be a whole number"),
    ({"learning_rates": (NAN,)}, r"learning_rates\[0\]=nan must be a finite number"),
    ({"learning_rates": (3e-4, -1.0)}, r"learning_rates\[1\]=-1.0 must be at least 0"),
    ({"learning_rates": ("fast",)}, r"learning_rates\[0\]='fast' must be a number"),
    (
      {"arms": {"a": {"model.connection.name": "hc", "model.connection.norm_eps": NAN}}},
      "arm 'a': model.connection.norm_eps=nan must be a finite number",
    ),
  ],
)
def test_a_sweep_with_such_values_is_refused(fields, words):
  sweep = {"base": config_lib.load_config("base"), "arms": {"a": {}}}
  with pytest.raises(UserError, match=f"^{words}"):
    Sweep(**(sweep | fields)).check()
