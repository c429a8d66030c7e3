"""Every key of the group optim reaches the optimizer, and no two have the same effect."""

import jax
import numpy as np
import optax
import pytest

from hc_jax.params import decay_mask
from hc_jax.train import make_optimizer
from tests.keys.table import Row, changed, pair, text_of

DECAYING = {"optim.schedule": "warmup_cosine", "optim.end_fraction": 0.1}
OPTIM = {
  "name": Row("lion"),
  "learning_rate": Row(0.5),
  "schedule": Row("warmup_linear", DECAYING),
  "warmup_steps": Row(5),
  "end_fraction": Row(0.5, DECAYING),
  "b1": Row(0.5),
  "b2": Row(0.5),
  "eps": Row(0.5),
  "weight_decay": Row(0.5),
  "clip_norm": Row(0.5),
  "groups": Row((("kernel", {"weight_decay": 0.5}),)),
}
STEP = jax.ShapeDtypeStruct((), np.int32)
PARAMS = {"kernel": np.ones((2, 2), np.float32), "static_mix": np.ones(2, np.float32)}


def program(optimizer):
  """Returns the program of one update, at a traced step."""
  state = jax.eval_shape(optimizer.init, PARAMS)
  return text_of(optimizer.update, PARAMS, state, PARAMS)


@pytest.mark.parametrize("key", OPTIM)
def test_a_key_of_the_optimizer_changes_its_update(key):
  before, after = (
    program(make_optimizer(config.optim, 20)[0]) for config in pair(f"optim.{key}", OPTIM[key])
  )
  assert before != after


def test_every_number_is_where_optax_has_it():
  numbers = {"b1": 0.11, "b2": 0.22, "eps": 0.33, "weight_decay": 0.44, "clip_norm": 0.55}
  numbers |= {"learning_rate": 0.66, "warmup_steps": 3}
  config, _ = pair("optim.name", Row("lion"))
  config = changed(config, DECAYING | {f"optim.{key}": value for key, value in numbers.items()})
  schedule = optax.join_schedules(
    [optax.linear_schedule(0.0, 0.66, 3), optax.cosine_decay_schedule(0.66, 20 - 3, alpha=0.1)], [3]
  )
  found, rate = make_optimizer(config.optim, 20)
  for step in range(22):
    assert float(rate(step)) == pytest.approx(float(schedule(step)), rel=1e-6)
  expected = optax.chain(
    optax.clip_by_global_norm(0.55),
    optax.adamw(rate, b1=0.11, b2=0.22, eps=0.33, weight_decay=0.44, mask=decay_mask),
  )
  assert program(found) == program(expected) == program(found)
