"""No two draws of a model share a key: weights by path and layer, dropout by site and layer.

Each draw reports its key. No two are equal within one forward pass or initialisation, nor between
two that begin with different keys.
"""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

import hc_jax as hc
from hc_jax.models import (
  Block,
  ParallelBlock,
  Segment,
  SegmentedStack,
  Stack,
  TokenContext,
)
from hc_jax.testing.compiled import jit
from tests.models import tiny

KEYS = jax.random.split(jax.random.key(0), 2)
# Everything that starts with random numbers.
RANDOM = {
  "activation": "swiglu",
  "positions": "learned",
  "tie_embeddings": False,
  "expand": "scaling",
  "reduce": "head",
  "connection": functools.partial(hc.IdentityHC, num_streams=2),
}


@pytest.mark.parametrize(
  "fields",
  [{"num_layers": 2, "scan": False}, {"layers": ((2, None), (1, tiny.RESIDUAL))}],
  ids=["unrolled", "scanned-segments"],
)
def test_every_initial_weight_of_every_layer_is_drawn_by_itself(fields, monkeypatch):
  def normal(std):
    """Fills a parameter with its key, as two numbers below one."""

    def init(key, shape, dtype=np.float32):
      numbers = (jax.random.key_data(key) >> 8).astype(dtype) / 2**24
      return jax.numpy.resize(numbers, shape)

    return init

  monkeypatch.setattr(nn.initializers, "normal", normal)
  model = tiny.model(**{"num_layers": None, **RANDOM, **fields})
  init = jit(model.init)
  found = []
  for key in KEYS:
    params = nn.unbox(init(key, tiny.TOKENS[:1, :1]))["params"]
    leaves = dict(hc.params.named_leaves(jax.device_get(hc.models.unstack_layers(params))))
    found += [tuple(leaf.ravel()[:2] % 1) for leaf in leaves.values() if np.ptp(leaf) > 0]
  # Embedding, positions, output, two ends; four of attention, three of feed-forward, two a site.
  connected, layers = 2, 3 if "layers" in fields else 2
  draws = 5 + layers * (4 + 3) + connected * 2 * 2
  assert len(found) == len(set(found)) == 2 * draws


class Nothing(nn.Module):
  """A branch without parameters or work."""

  @nn.compact
  def __call__(self, x, context=None):
    return x


PARTS = {"attention": Nothing, "feed_forward": Nothing, "norm": Nothing, "dropout": 0.5}
RESIDUAL = {"connection": functools.partial(hc.Residual), **PARTS}
BLOCKS = {  # the streams and the sites of a block
  "sequential": (functools.partial(Block, **RESIDUAL), 1, 2),
  "parallel": (functools.partial(ParallelBlock, **RESIDUAL), 1, 1),
}
CONTEXT = TokenContext(positions=np.zeros((1, 1), np.int32), deterministic=False)


def keys_of(stack, streams):
  """Returns the keys of the dropouts of two forward passes with a key each, in no order."""
  seen = []

  def instead(call, args, kwargs, context):
    if not isinstance(context.module, nn.Dropout):
      return call(*args, **kwargs)
    key = jax.random.key_data(context.module.make_rng("dropout"))
    jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), key)
    return args[0]

  @jit
  def forward(key):
    with nn.intercept_methods(instead):
      x = np.ones((1, 1, streams, 2), np.float32)
      return stack.apply({}, x, CONTEXT, rngs={"dropout": key})

  jax.block_until_ready([forward(key) for key in KEYS])
  jax.effects_barrier()
  return seen


@pytest.mark.parametrize(
  "block, scan, remat",
  [
    ("sequential", True, "branches"),
    ("sequential", True, "blocks:2"),
    ("sequential", False, "blocks:2"),
    ("parallel", True, "none"),
    ("sequential", True, "full"),
  ],
)
def test_every_site_of_every_layer_drops_by_itself(block, scan, remat):
  make, streams, sites = BLOCKS[block]
  keys = keys_of(Stack(make, 4, scan=scan, remat=remat), streams)
  assert len(keys) == len(set(keys)) == 2 * 4 * sites


@pytest.mark.parametrize("scan", [True, False])
def test_segments_drop_by_themselves(scan):
  make, streams, sites = BLOCKS["sequential"]
  segments = [Segment(2, make, hc.Residual())] * 2
  keys = keys_of(SegmentedStack(segments, scan=scan, remat="none"), streams)
  assert len(keys) == len(set(keys)) == 2 * 4 * sites


@pytest.mark.parametrize("block", BLOCKS)
def test_every_number_of_a_branch_is_dropped_by_itself(block):
  """A branch output of ones shows the mask: rows, tokens and features each have their own."""

  class Ones(nn.Module):
    @nn.compact
    def __call__(self, x, context):
      return 0 * x + 1

  make, streams, _ = BLOCKS[block]
  alone = {"attention": Ones} if block == "parallel" else {"attention": Ones, "feed_forward": Ones}
  one = functools.partial(make, **alone)()
  x = np.zeros((2, 3, streams, 64), np.float32)
  apply = jit(lambda key: one.apply({}, x, 0, CONTEXT, rngs={"dropout": key}))
  out = np.asarray(apply(jax.random.key(0)))[:, :, -1]
  assert {tuple(np.unique(out))} <= {(0.0, 2.0), (0.0, 2.0, 4.0)}
  assert len({token.tobytes() for token in out.reshape(-1, 64)}) == 6
  assert len({feature.tobytes() for feature in out.reshape(-1, 64).T}) > 16
