"""Comparison with the installed hyper-connections for PyTorch: `make parity`.

See tests/goldens/test_goldens.py for that package's differences from the paper.
"""

import flax.linen as nn
import jax
import numpy as np
import pytest

WHY = "a live peer of the extra `parity` is not installed; `make parity` installs and compares"
torch = pytest.importorskip("torch", reason=WHY)
peer = pytest.importorskip("hyper_connections", reason=WHY)

import hc_jax as hc  # noqa: E402
from hc_jax import convert  # noqa: E402
from hc_jax.testing.compiled import jit  # noqa: E402
from tests.goldens import make, ours  # noqa: E402


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", make.STREAMS)
def test_forward_and_gradients(name, seed):
  options = make.STREAMS[name]
  case = make.hyper_connections(**options, width=32, batch=3, length=5, seed=seed)
  ours.check(ours.hyper_connection_distances(case, options["tanh"]))


@pytest.mark.parametrize("name", make.CONSTRAINED)
def test_manifold_constrained(name):
  case = make.hyper_connections(**make.CONSTRAINED[name], width=32, batch=3, length=5, seed=1)
  ours.check(ours.hyper_connection_distances(case, tanh=False))


@pytest.mark.parametrize("n, index", [(1, 0), (2, 5), (4, 2)])
def test_both_start_alike(n, index):
  """Compares initial parameters of the module and of ours, with the same layer index."""
  module = peer.HyperConnections(n, dim=8, layer_index=index)
  state = {name: value.detach().numpy() for name, value in module.state_dict().items()}
  connection = hc.HyperConnection(num_streams=n, norm="rmsnorm", norm_params=True)
  streams = np.ones((1, n, 8), np.float32)
  init = jit(lambda key: connection.init(key, streams, index))
  params = nn.unbox(init(jax.random.key(0)))["params"]
  theirs = convert.from_hyper_connections(state)
  assert set(params) == set(theirs)
  for name, value in theirs.items():
    np.testing.assert_array_equal(params[name], value, err_msg=name)


def test_ours_loads_there():
  """Loads our parameters, converted to a state dict, into the module."""
  case = make.hyper_connections(4, True, seed=3)
  state = ours.below(case, "state/")
  back = convert.to_hyper_connections(convert.from_hyper_connections(state))
  module = peer.HyperConnections(4, dim=8, layer_index=0)
  module.load_state_dict({k: torch.tensor(v) for k, v in back.items()}, strict=True)
  folded = torch.tensor(case["streams"]).permute(0, 2, 1, 3).reshape(8, 3, 8)
  branch_input, _ = module(folded)
  assert ours.distance(branch_input.detach().numpy(), case["branch_input"]) < ours.FORWARD


@pytest.mark.parametrize("name", [*make.STREAMS, *make.CONSTRAINED, *make.ZERO])
def test_goldens_are_what_the_peer_computes(name):
  golden, versions = make.load("hyper_connections")
  fresh = make.hyper_connections(**{**make.STREAMS, **make.CONSTRAINED, **make.ZERO}[name])
  assert set(fresh) == set(golden[name])
  for key, value in fresh.items():
    # The terms of a single gradient nearly cancel, so that rounding differs between processors.
    limit = ours.ONE_GRADIENT if key.startswith("grad/") else ours.FORWARD
    assert ours.distance(golden[name][key], value) < limit, (name, key, versions)
  all_of = lambda case: np.concatenate([np.ravel(v) for v in ours.below(case, "grad/").values()])  # noqa: E731
  assert ours.distance(all_of(golden[name]), all_of(fresh)) < ours.GRADIENT, (name, versions)
