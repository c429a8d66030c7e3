"""Telemetry agrees with float64 numbers from the same maps, and does not change training."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

import hc_jax as hc
from hc_jax import sharding
from hc_jax.analysis import collect_sites, spectra
from hc_jax.testing.compiled import jit
from hc_jax.train import read_metrics
from hc_jax.train.telemetry import telemetry
from tests.models import tiny as network
from tests.train import tiny

GAINS = ("amax_fwd", "amax_bwd", "gain_fwd", "gain_bwd")
BATCH = {"inputs": network.TOKENS}


def measured(**fields):
  model = network.model(**fields)
  values = jit(functools.partial(telemetry, model=model))(network.params(model), BATCH)
  return {k: float(v) for k, v in values.items()}


def sites_of(**fields):
  model = network.model(**fields)
  return collect_sites(model, network.params(model), network.TOKENS)


def gains(mix):
  return dict(zip(GAINS, (*spectra.amax_gain(mix), *spectra.norm_gain(mix)), strict=True))


def expected(sites):
  """Computes telemetry in float64 from the maps of all sites, which have one number of streams."""
  sites, found = list(sites.values()), {}
  mixes = [np.asarray(site.coefs.mix, np.float64) for site in sites]
  for name, gain in gains(functools.reduce(lambda p, mix: mix @ p, mixes)).items():
    found[f"hc/{name}"] = gain.mean()
    found[f"hc/site_{name}"] = max(gains(mix)[name].mean() for mix in mixes)
  n = mixes[0].shape[-1]
  off = [np.abs(mix * (1 - np.eye(n))).sum((-2, -1)).mean() / n for mix in mixes]
  found["hc/offdiag"] = np.mean(off)
  energy = np.square(np.asarray(sites[-1].streams, np.float64)).mean((0, 1, 3))
  found |= {f"hc/energy_share_{i}": e / energy.sum() for i, e in enumerate(energy)}
  found["hc/stream_rms"] = np.sqrt(energy.mean())
  apart = size = 0.0
  for site in sites:
    for x in (site.coefs.read, site.coefs.write, site.coefs.mix):
      if x.ndim > 2:
        mean = x.astype(np.float64).mean((0, 1))
        apart += np.square(x - mean).sum() / np.prod(x.shape[:2])
        size += np.square(mean).sum()
  return found | ({"hc/dynamic_ratio": np.sqrt(apart / size)} if size else {})


@pytest.mark.parametrize(
  "fields",
  [
    pytest.param(
      {"connection": functools.partial(hc.HyperConnection, num_streams=3)}, marks=pytest.mark.slow
    ),
    {"connection": network.SHC2, "scan": False},
  ],
)
def test_it_is_what_float64_says(fields):
  found, wanted = measured(**fields), expected(sites_of(**fields))
  assert sorted(found) == sorted(wanted)
  for name, value in wanted.items():
    assert found[name] == pytest.approx(value, rel=1e-5), name


def test_what_a_network_does_not_have_is_left_out():
  assert measured(connection=hc.Residual) == {}
  identity = functools.partial(hc.IdentityHC, num_streams=2)
  names = {"hc/energy_share_0", "hc/energy_share_1", "hc/stream_rms", "hc/dynamic_ratio"}
  assert set(measured(connection=identity)) == names


@pytest.mark.slow
def test_networks_whose_layers_differ():
  """With three streams and then two, numbers of single sites exist, but no product or energies."""
  three = functools.partial(hc.HyperConnection, num_streams=3)
  fields = {"layers": ((1, three), (1, network.DHC2))}
  found = measured(**fields)
  mixes = [np.asarray(site.coefs.mix, np.float64) for site in sites_of(**fields).values()]
  largest = max(gains(mix)["gain_fwd"].mean() for mix in mixes)
  assert found["hc/site_gain_fwd"] == pytest.approx(largest, rel=1e-5)
  assert {name.removeprefix("hc/") for name in found} == {
    *(f"site_{name}" for name in GAINS),
    *("offdiag", "dynamic_ratio"),
  }
  upper = measured(layers=((1, hc.Residual), (1, network.DHC2)))
  assert {"hc/amax_fwd", "hc/energy_share_1"} <= set(upper)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(hc.CONNECTIONS))
def test_every_variant(name):
  fields = {"frac": {"fractions": 2}, "residual": {}}.get(name, {"num_streams": 4})
  found = measured(connection=functools.partial(hc.CONNECTIONS[name], **fields))
  assert all(np.isfinite(value) for value in found.values())
  assert bool(found) == (name != "residual")


@pytest.mark.slow
def test_a_mesh_changes_nothing():
  model = network.model(connection=network.DHC2, max_length=16)
  params = network.params(model)
  tokens = np.tile(network.TOKENS, (2, 1))
  alone = jit(functools.partial(telemetry, model=model))(params, {"inputs": tokens})
  mesh = sharding.make_mesh("fsdp_tp", data=2, fsdp=2, tensor=2)
  with sharding.use_mesh(mesh, "fsdp_tp"):
    boxed = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    params = jax.device_put(params, sharding.param_shardings(boxed, mesh, "fsdp_tp"))
    batch = {"inputs": jax.device_put(tokens, sharding.batch_sharding(mesh))}
    split = jit(functools.partial(telemetry, model=model))(nn.unbox(params), batch)
  for name, value in alone.items():
    np.testing.assert_allclose(split[name], value, rtol=1e-5, err_msg=name)


def rows_of(workdir):
  """Returns the rows of a run without timings."""
  rows = read_metrics(str(workdir))
  return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


@pytest.mark.slow
def test_training_does_not_notice_it_and_it_resumes(one_device, tmp_path, capsys):
  """Rows come at every third step, each once, even if the run is stopped and resumed."""
  flags = {"train__log_every": 4, "train__checkpoint_every": 5}
  without = tiny.start(tmp_path / "without", train__num_steps=7, **flags)
  flags["train__telemetry_every"] = 3
  whole = tiny.start(tmp_path / "whole", train__num_steps=7, **flags)
  assert "telemetry took" in capsys.readouterr().out
  for mine, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(without), strict=True):
    np.testing.assert_array_equal(mine, theirs)
  rows = rows_of(tmp_path / "whole")
  found = {row["step"]: {k for k in row if k.startswith("hc/")} for row in rows}
  assert [step for step, names in found.items() if names] == [3, 6]
  assert {"hc/amax_fwd", "hc/offdiag", "hc/energy_share_1", "hc/dynamic_ratio"} <= found[3]
  bare = [{k: v for k, v in row.items() if not k.startswith("hc/")} for row in rows]
  assert [row for row in bare if set(row) != {"step"}] == rows_of(tmp_path / "without")

  tiny.start(tmp_path / "parts", train__num_steps=4, **flags)
  tiny.start(tmp_path / "parts", train__num_steps=7, **flags)
  again = [row for row in rows_of(tmp_path / "parts") if row["step"] in (3, 6)]
  assert again == [row for row in rows if row["step"] in (3, 6)]
