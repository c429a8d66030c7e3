"""Comparison with stored results of peer packages (tests/goldens/make.py), which are not needed.

hyper-connections (PyTorch) differs from the paper in two points, and the cases take account of
both. Its norm is an RMSNorm without eps; the paper has LayerNorm. A connection without a layer
index first reads a stream drawn at random. Fractions and several input views differ further and are
not compared.
"""

import functools

import numpy as np
import pytest

import hc_jax as hc
from hc_jax import convert
from hc_jax.testing.compiled import jit
from tests.goldens import make, ours
from tests.models import tiny

HEADS = make.OLMO["num_attention_heads"]


@functools.cache
def cases(peer):
  return make.load(peer)[0]


def hyper(name):
  return cases("hyper_connections")[name]


def tanh(name):
  return make.STREAMS[name]["tanh"]


def test_files_say_what_made_them_and_are_small():
  for peer, packages in make.PEERS.items():
    found, versions = make.load(peer)
    assert found
    for package in packages:
      assert f"{package} " in versions
  assert sum(file.stat().st_size for file in make.HERE.glob("*.npz")) < 200_000


@pytest.mark.parametrize("name", make.STREAMS)
def test_hyper_connections(name):
  """Compares branch input, streams, and gradients of streams and every parameter."""
  distances = ours.hyper_connection_distances(hyper(name), tanh(name))
  assert len(distances) == 2 + 6 + 1 + 1  # forward; parameters, streams, all gradients together
  ours.check(distances)


def test_hyper_connections_with_zero_projections_are_static():
  distances = ours.hyper_connection_distances(hyper("n4_static"), True, dynamic=False)
  parameters = {"grad/static_read", "grad/static_mix", "grad/static_write", "grad/streams"}
  assert set(distances) == parameters | {"branch_input", "out", "gradient"}
  ours.check(distances)


@pytest.mark.parametrize("name", make.CONSTRAINED)
def test_manifold_constrained_hyper_connections(name):
  distances = ours.hyper_connection_distances(hyper(name), tanh=False)
  assert len(distances) == 2 + 8 + 1 + 1  # three scales, and otherwise as above
  ours.check(distances)


@pytest.mark.parametrize("name", make.ZERO)
def test_zero_streams(name):
  """Streams of zeros, as from padding, give finite values and derivatives without an eps."""
  case = hyper(name)
  assert not np.any(case["streams"][0, 0]) and not np.any(case["streams"][-1, -1, -1])
  assert np.max(np.abs(case["grad/streams"][-1, -1, -1])) > 1e10  # their clamp divides by 1e-12
  distances = ours.hyper_connection_distances(case, make.ZERO[name]["tanh"])
  assert "grad/zero_streams" in distances
  ours.check(distances)


def test_a_transposed_mix_of_mhc_shows():
  transposed = wrong(lambda p: {"static_mix": p["static_mix"].T})
  found = ours.hyper_connection_distances(hyper("n4_mhc"), False, convert_state=transposed)
  assert found["out"] > 1000 * ours.FORWARD


def wrong(change):
  """Returns a converter with a mistake."""

  def convert_state(state):
    params = convert.from_hyper_connections(state)
    return {**params, **change(params)}

  return convert_state


@pytest.mark.parametrize(
  "change",
  [
    lambda p: {"static_mix": p["static_mix"].T},
    lambda p: {"dynamic_kernel": np.roll(p["dynamic_kernel"], 1, axis=1)},
    lambda p: {"dynamic_scale": p["dynamic_scale"][::-1]},
    lambda p: {"norm_scale": p["norm_scale"] - 1},
  ],
  ids=["mix transposed", "kernel rolled", "scales swapped", "gamma without one"],
)
def test_a_mistake_in_the_conversion_shows(change):
  found = ours.hyper_connection_distances(hyper("n4_tanh"), True, convert_state=wrong(change))
  assert found["out"] > 1000 * ours.FORWARD


def test_tanh_shows():
  assert ours.hyper_connection_distances(hyper("n4_tanh"), False)["out"] > 1000 * ours.FORWARD


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_olmo(name):
  """Compares logits of a model with rotary positions, grouped queries and SwiGLU."""
  case = cases("olmo")[name]
  assert np.std(case["logits"]) > 0.5
  assert ours.olmo_distance(case, name == "tied", HEADS) < ours.LOGITS


@pytest.mark.parametrize("connection", [tiny.DHC4, tiny.SHC2], ids=["dhc4", "shc2"])
def test_olmo_is_what_hyper_connections_start_as(connection):
  """The final norm has eps n^2 * 1e-5, since its input is n times OLMo's residual stream."""
  case, n = cases("olmo")["untied"], connection.keywords["num_streams"]
  model = ours.olmo_model(case, False, HEADS, connection=connection, final_norm_eps=1e-5 * n**2)
  params = convert.from_olmo(ours.below(case, "state/"), HEADS)
  params = tiny.same_branches(params, tiny.at_init(model))
  logits = jit(model.apply)({"params": params}, case["tokens"])
  assert ours.distance(logits, case["logits"]) < ours.LOGITS


def test_converted_olmo_fits_scanned_layers_too():
  case = cases("olmo")["tied"]
  params = convert.from_olmo(ours.below(case, "state/"), HEADS, tie_embeddings=True)
  model = ours.olmo_model(case, True, HEADS, scan=True)
  logits = jit(model.apply)({"params": hc.models.stack_layers(params)}, case["tokens"])
  assert ours.distance(logits, case["logits"]) < ours.LOGITS
