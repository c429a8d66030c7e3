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

# Small, unrolled and without streams: quick to trace. A row adds what its key needs to matter.
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
  """Another value of a key, and other keys without which it would not matter."""

  value: Any
  given: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@functools.cache
def _small() -> Any:
  return changed(tiny.config(), SMALL)


class Tracker:
  """A tracker that keeps names and steps of what it is given, for all to see."""

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
  """Keeps what a function makes of a config: many rows have the config that they start from."""
  kept = {}

  @functools.wraps(observe)
  def see(config: Any) -> Any:
    name = json.dumps(config_lib.to_json(config))
    if name not in kept:
      kept[name] = observe(config)
    return kept[name]

  return see


def text_of(function: Callable, *args: Any) -> str:
  """Returns a function's jaxpr as text; addresses of Python objects are taken out."""
  return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(function)(*args)))
