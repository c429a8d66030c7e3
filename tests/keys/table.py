"""Pairs of small configs that differ in one key, and programs as text that can be compared."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from hc_jax import config as config_lib
from tests.train import tiny

# Small, unrolled and without streams, so that tracing is quick. A row adds the keys that it needs.
SMALL = {
  "model.d_model": 8,
  "model.num_layers": 1,
  "model.scan": False,
  "model.max_length": 4,
  "model.vocab_size": 11,
  "model.dtype": "float32",
  "model.remat": "none",
  "model.dropout": 0.0,
  "model.connection.name": "residual",
  "model.connection.num_streams": None,
  "data.length": 4,
  "data.workers": 0,
}


@dataclasses.dataclass(frozen=True)
class Row:
  """Another value of a key, and other keys that it needs to have an effect."""

  value: Any
  given: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@functools.cache
def _small() -> Any:
  return changed(tiny.config(), SMALL)


class Tracker:
  """Tracker that keeps the names and steps that it gets, in a class attribute."""

  given = []

  def __init__(self, workdir, config):
    pass

  def log_scalar(self, event, value, **kwargs):
    self.given.append((event, kwargs["step"]))

  def close(self):
    pass


def changed(config: Any, values: Mapping[str, Any]) -> Any:
  """Returns a copy of a config with other values of some dotted keys, not checked."""
  config = config_lib.from_json(config_lib.to_json(config), config)
  config_lib.assign(config, values)
  return config


def pair(key: str, row: Row) -> tuple[Any, Any]:
  """Returns two configs that differ in that key alone."""
  before = changed(_small(), row.given)
  after = changed(before, {key: row.value})
  assert config_lib.diff(before, after) == [key], "the row gives the value that is there already"
  return before, after


def once(observe: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """Caches a function of a config, since many rows start from the same config."""
  kept = {}

  @functools.wraps(observe)
  def see(config: Any) -> Any:
    name = json.dumps(config_lib.to_json(config))
    if name not in kept:
      kept[name] = observe(config)
    return kept[name]

  return see


def text_of(function: Callable, *args: Any) -> str:
  """Returns a function's jaxpr as text, without the addresses of Python objects."""
  return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(function)(*args)))
