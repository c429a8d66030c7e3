"""Optimizers, schedules and the decay mask, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hc_jax import UserError, models
from hc_jax.axes import unboxed
from hc_jax.params import decay_mask, named_leaves
from hc_jax.train import make_optimizer, make_schedule
from tests.train import tiny

PEAK = {"optim__learning_rate": 1.0, "optim__end_fraction": 0.1}


def optim(**changes):
  return tiny.config(**PEAK | {f"optim__{k}": v for k, v in changes.items()}).optim


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [  # at steps 0, 5, 10, 55, 100: warmup over 10 of 100 steps
    ("warmup_cosine", [0, 0.5, 1, 0.55, 0.1]),
    ("linear", [0, 0.5, 1, 0.55, 0.1]),
    ("constant", [0, 0.5, 1, 1, 1]),
    ("exponential_decay", [0, 0.5, 1, 0.1**0.5, 0.1]),
    ("polynomial_schedule", [0, 0.5, 1, 0.55, 0.1]),
  ],
)
def test_schedules(schedule, expected):
  for peak in (1.0, 0.3):  # every value is a share of the peak
    rate = make_schedule(optim(schedule=schedule, warmup_steps=10, learning_rate=peak), 100)
    found = [float(rate(step)) / peak for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_schedule_depends_on_the_number_of_steps_at_hand():
  short = make_schedule(optim(schedule="warmup_cosine", warmup_steps=10), 100)
  long = make_schedule(optim(schedule="warmup_cosine", warmup_steps=10), 1000)
  assert float(short(10)) == float(long(10)) and float(short(90)) < float(long(90))
  # A run shorter than its warmup warms up to its end.
  assert float(make_schedule(optim(warmup_steps=100), 20)(20)) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", ["cosin", "join_schedules", "sgdr_schedule"])
def test_an_unknown_schedule_is_refused(schedule):
  with pytest.raises(UserError, match=r"optim\.schedule='" + schedule):
    make_schedule(optim(schedule=schedule), 10)


def test_adamw_decays_by_path_and_clips():
  config = optim(warmup_steps=0, weight_decay=0.5, clip_norm=1.0)
  optimizer, _ = make_optimizer(config, 10)
  params = {name: jnp.ones((2, 3, 4)) for name in ("kernel", "static_mix", "norm_scale")}
  params["embedding"] = jnp.ones(3)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(zero, optimizer.init(params), params)
  decayed = {name for name, u in updates.items() if float(jnp.abs(u).max()) > 0}
  assert decayed == {"kernel", "embedding"}
  np.testing.assert_allclose(updates["kernel"], -0.5)

  sgd, _ = make_optimizer(optim(name="sgd", warmup_steps=0, weight_decay=0, clip_norm=1.0), 10)
  big = jax.tree.map(lambda x: 100 * jnp.ones_like(x), params)
  updates, _ = sgd.update(big, sgd.init(params), params)
  assert float(optax.global_norm(updates)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("scan", [True, False])
def test_what_decays_is_the_same_scanned_and_unrolled(scan):
  model = models.make_model(tiny.config(model__scan=scan).model, vocab_size=17)
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  params = unboxed(jax.eval_shape(model.init, jax.random.key(0), tokens)["params"])
  decays = {path.split("/")[-1]: on for path, on in named_leaves(decay_mask(params))}
  connection = {n: d for n, d in decays.items() if n.startswith(("static", "dynamic"))}
  assert connection.pop("dynamic_kernel") and not any(connection.values())
  kept = {name for name, on in decays.items() if not on}
  assert all(n.startswith("static_") or n.endswith(("scale", "bias")) for n in kept)


@pytest.mark.parametrize("name", ["adam", "lion", "sgd", "adafactor", "lamb", "novograd"])
def test_other_optimizers_take_a_step(name):
  decay = 0.1 if name in ("lion", "lamb", "adafactor") else 0.0
  optimizer, _ = make_optimizer(optim(name=name, weight_decay=decay, warmup_steps=0), 10)
  params = {"kernel": jnp.ones((4, 4))}
  updates, _ = optimizer.update({"kernel": jnp.ones((4, 4))}, optimizer.init(params), params)
  assert float(jnp.max(updates["kernel"])) < 0


@pytest.mark.parametrize("name", ["adamww", "scale_by_learning_rate", "clip"])
def test_what_is_no_optimizer_is_refused(name):
  with pytest.raises(UserError, match=f"^optim.name='{name}' is not an optimizer"):
    make_optimizer(optim(name=name), 10)


def test_decay_that_an_optimizer_lacks_is_refused():
  with pytest.raises(UserError, match=r"optim\.name='sgd' has no weight decay"):
    make_optimizer(optim(name="sgd", weight_decay=0.1), 10)
