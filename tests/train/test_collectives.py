"""The compiled step never sends the streams between devices."""

import re

import jax
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import axes, sharding
from hc_jax.models import TransformerLM
from hc_jax.step.feed import to_devices
from hc_jax.step.loss import token_init, token_loss, token_weight
from hc_jax.step.state import abstract_state
from hc_jax.step.step import jit_train_step
from hc_jax.testing.compiled import options
from hc_jax.train import make_optimizer
from tests.train import tiny

# Every axis has another size, so that an array can be recognised by its shape.
BATCH, LENGTH, STREAMS, WIDTH = 16, 24, 3, 40
MESHES = {"dp": (8, 1, 1), "fsdp": (2, 4, 1), "fsdp_tp": (2, 2, 2)}
_COLLECTIVE = re.compile(
  r"= (.+?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|"
  r"collective-broadcast|ragged-all-to-all)(?:-start)?\("
)
_SHAPE = re.compile(r"\w+\[([\d,]*)\]")


def collectives(preset):
  """Returns (name, shape) of every collective of the compiled training step."""
  model = TransformerLM(
    vocab_size=272,
    d_model=WIDTH,
    num_layers=2,
    num_heads=4,
    d_ff=112,
    max_length=LENGTH,
    connection=hc.HyperConnection(num_streams=STREAMS),
  )
  optimizer, schedule = make_optimizer(tiny.config().optim, 10)
  mesh = sharding.make_mesh(preset, **dict(zip(sharding.AXES, MESHES[preset], strict=True)))
  kind = {"mesh": mesh, "preset": preset}
  init = token_init(model, LENGTH)
  tokens = np.zeros((BATCH, LENGTH), np.int32)
  batch = {"inputs": tokens, "targets": tokens, "mask": np.ones((BATCH, LENGTH), np.float32)}
  with sharding.use_mesh(mesh, preset):
    step = jit_train_step(
      abstract_state(init, optimizer, **kind),
      loss=token_loss(model),
      weight=token_weight,
      optimizer=optimizer,
      schedule=schedule,
    )
    state = abstract_state(init, optimizer, **kind)
    text = step.lower(state, to_devices(batch, mesh)).compile(options()).as_text()
  found = []
  for shapes, name in _COLLECTIVE.findall(text):
    for dims in _SHAPE.findall(shapes):
      found.append((name, tuple(int(d) for d in dims.split(",") if d)))
  return found


def of_streams(found):
  """Returns the collectives whose shape has the streams' axes, in any order."""
  return [
    (name, shape) for name, shape in found if {STREAMS, WIDTH} <= set(shape) and is_act(shape)
  ]


def is_act(shape):
  """Returns whether a shape has a batch or length axis, unlike the connections' kernels."""
  parts = {LENGTH, LENGTH // 2, BATCH, BATCH // 2, BATCH // 4}
  return len(shape) > 3 and bool(parts & set(shape))


@pytest.fixture(autouse=True)
def eight_devices():
  if jax.device_count() < 8:
    pytest.skip("needs eight devices; tests/conftest.py forces them on CPU")


@pytest.mark.parametrize(
  "preset", [*(pytest.param(p, marks=pytest.mark.exhaustive) for p in ("dp", "fsdp")), "fsdp_tp"]
)
@pytest.mark.slow
def test_streams_are_never_sent(preset):
  found = collectives(preset)
  names = {name for name, _ in found}
  assert "all-reduce" in names  # gradients
  if preset != "dp":
    assert "all-gather" in names  # parameters
    assert ("all-gather", (WIDTH, 112)) in found or preset == "fsdp_tp"
  assert of_streams(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["dp", "fsdp_tp"])
def test_streams_that_are_gathered_by_accident_are_noticed(preset, monkeypatch):
  """Removes the batch from the streams' constraint, so that every device holds all streams."""
  names = axes.stream_axes
  monkeypatch.setattr(axes, "stream_axes", lambda ndim: (None, *names(ndim)[1:]))
  assert of_streams(collectives(preset)) != []
