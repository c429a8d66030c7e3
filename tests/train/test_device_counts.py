"""One device and many give the same losses and gradients; 24 cases cover every pair of options."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hc_jax as hc
from hc_jax import sharding
from hc_jax.models import TransformerLM
from hc_jax.step.feed import to_devices
from hc_jax.step.loss import token_init, token_loss, token_weight
from hc_jax.step.state import abstract_state, create_state
from hc_jax.step.step import jit_train_step
from hc_jax.testing.compiled import options

STEPS, ROWS, LENGTH, VOCAB = 20, 16, 8, 32
RATE = 0.5
VARIANTS = {
  "residual": hc.Residual,
  "hc": functools.partial(hc.HyperConnection, num_streams=2),
  "static": functools.partial(hc.HyperConnection, num_streams=3, dynamic=False),
  "frac": hc.CONNECTIONS["frac"],
  "mhc": functools.partial(hc.CONNECTIONS["mhc"], num_streams=2),
  "ghc": hc.CONNECTIONS["ghc"],
}
REMAT = ("none", "branches", "full", "blocks:2")
PRESETS = ("dp", "fsdp", "fsdp_tp")
DEVICES = (2, 4, 8)
SIZES = {
  ("dp", 2): (2, 1, 1),
  ("dp", 4): (4, 1, 1),
  ("dp", 8): (8, 1, 1),
  ("fsdp", 2): (1, 2, 1),
  ("fsdp", 4): (2, 2, 1),
  ("fsdp", 8): (2, 4, 1),
  ("fsdp_tp", 2): (1, 1, 2),
  ("fsdp_tp", 4): (1, 2, 2),
  ("fsdp_tp", 8): (2, 2, 2),
}
FACTORS = (tuple(VARIANTS), REMAT, PRESETS, DEVICES, (True, False), (1, 2))


def _cases():
  """Yields every variant with every remat; other options so that each pair of options occurs."""
  for v, r in itertools.product(range(len(VARIANTS)), range(len(REMAT))):
    picks = (v, r, (v + r) % 3, (v + 2 * r) % 3, (v + r // 2) % 2, (r + v // 2) % 2)
    yield tuple(values[i] for values, i in zip(FACTORS, picks, strict=True))


CASES = list(_cases())


def test_every_pair_of_options_occurs():
  assert len(CASES) <= 24
  for (i, a), (j, b) in itertools.combinations(enumerate(FACTORS), 2):
    assert {(case[i], case[j]) for case in CASES} == set(itertools.product(a, b))


def last_gradient():
  """Returns plain gradient descent whose state is the last gradient."""
  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, _, __: (jax.tree.map(lambda g: -RATE * g, grads), grads),
  )


@functools.cache
def batches():
  rng = np.random.default_rng(0)
  first = rng.integers(0, VOCAB, (STEPS, ROWS, 1), np.int32)
  tokens = (first + np.arange(LENGTH + 1, dtype=np.int32)) % VOCAB  # the next one is one more
  masks = (rng.random((STEPS, ROWS, LENGTH)) < 0.9).astype(np.float32)
  return [
    {"inputs": t[:, :-1], "targets": t[:, 1:], "mask": m}
    for t, m in zip(tokens, masks, strict=True)
  ]


@functools.cache
def run(variant, scan, remat, accumulation, preset, sizes):
  """Trains; returns the losses of all steps, and the last gradient."""
  model = TransformerLM(
    vocab_size=VOCAB,
    d_model=16,
    num_layers=2,
    num_heads=2,
    d_ff=32,
    max_length=LENGTH,
    init_std=0.1,
    connection=VARIANTS[variant],
    remat=remat,
    scan=scan,
  )
  mesh = sharding.make_mesh(
    preset,
    **dict(zip(sharding.AXES, sizes, strict=True)),
    devices=jax.devices()[: int(np.prod(sizes))],
  )
  kind = {"mesh": mesh, "preset": preset}
  init = token_init(model, LENGTH)
  with sharding.use_mesh(mesh, preset):
    state = create_state(init, last_gradient(), 0, **kind)
    step = jit_train_step(
      abstract_state(init, last_gradient(), **kind),
      loss=token_loss(model),
      weight=token_weight,
      optimizer=last_gradient(),
      schedule=lambda _: RATE,
      accumulation=accumulation,
    )
    data = [to_devices(batch, mesh) for batch in batches()]
    step = step.lower(state, data[0]).compile(options())
    losses = []
    for batch in data:
      state, metrics = step(state, batch)
      losses.append(float(metrics["train/loss"]))
  return np.array(losses), jax.device_get(state.opt_state)


def marked(case):
  """Marks one case of hyper-connections as slow, and the others as exhaustive."""
  mark = pytest.mark.slow if case[:2] == ("hc", "branches") else pytest.mark.exhaustive
  return pytest.param(case, marks=mark, id="-".join(map(str, case)))


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_many_devices_are_one(case):
  if jax.device_count() < 8:
    pytest.skip("needs eight devices; tests/conftest.py forces them on CPU")
  variant, remat, preset, devices, scan, accumulation = case
  # The reference runs without remat and accumulation, so that these are compared as well.
  losses, gradient = run(variant, scan, "none", 1, "dp", (1, 1, 1))
  found, other = run(variant, scan, remat, accumulation, preset, SIZES[preset, devices])
  assert losses[0] - losses[-1] > 0.3  # it learns, so that a wrong gradient would show
  np.testing.assert_allclose(found, losses, rtol=1e-5, atol=1e-5)
  square = lambda tree: sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))  # noqa: E731
  difference = square(jax.tree.map(np.subtract, other, gradient)) / square(gradient)
  # Rounding grows over the steps. The largest measured was 1.2e-5, for mHC.
  assert np.sqrt(difference) < 2e-5
