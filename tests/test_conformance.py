"""Every variant in the table keeps the contract; see `hc_jax.testing.conformance.suite`."""

import functools

import pytest

from hc_jax.connections import CONNECTIONS, Facts, HyperConnection
from hc_jax.testing.conformance.candidate import Candidate
from hc_jax.testing.conformance.network import starts_as_claimed
from hc_jax.testing.conformance.suite import CONFORMANCE, NotApplicable

# Besides each class as it comes: fields that change what it computes.
MORE = {
  "hc": (
    {"num_views": 3},
    {"dynamic": False},
    {"num_streams": 3, "tanh": False, "norm": "rmsnorm"},
    {"num_streams": 8, "norm_params": True},
    {"num_streams": 1},
  ),
  "frac": ({"num_views": 2}, {"fractions": 2, "num_streams": 4}, {"dynamic": False}),
  "ghc": ({"num_streams": 4}, {"dynamic": False}),
  "altup": ({"num_streams": 3},),
  "mhc": (
    {"num_views": 3},
    {"form": "deepseek_v4", "bias_init": "uniform", "num_streams": 2},
    {"bias_init": "onehot", "norm_params": True, "num_streams": 3},
    {"num_streams": 1},
  ),
  "identity": ({"num_streams": 1}, {"num_streams": 3, "bias_init": "onehot"}),
  "mhc_lite": ({"num_streams": 3, "bias_init": "identity"},),
  "kromhc": ({"num_streams": 8},),
  "ohc": ({"train_mix_scale": True},),
  "x0_lambdas": ({"backout": True, "backout_block": 1},),
  "attn_res": ({"block_sites": 3}, {"num_views": 3}),
  "attn_res_delta": ({"block_sites": 3},),
  "gated_residual": ({"num_views": 3}, {"num_streams": 3, "rank": 5}, {"num_streams": 1}),
}
CASES = {
  (name + "".join(f"-{k}={v}" for k, v in fields.items())): (cls, fields)
  for name, cls in CONNECTIONS.items()
  for fields in ({}, *MORE.get(name, ()))
}


# Checks of one connection by itself: `make test` runs them for one variant of each structure, and
# that of the maps for every variant as it comes. They are also the only ones for several views,
# which no feed-forward takes.
ALONE = ("shapes", "counts", "maps", "claims", "bf16", "grads", "vjp")
MAPS = ("counts", "maps", "grads")
# Checks that a connection works wherever JAX does, which hangs on its structure alone: `make test`
# runs them for one variant of each structure, but the one that compiles most.
EVERYWHERE = ("value", "whole", "empty", "x64", "jvp", "shard", "pmap", "explicit")
# Checks of a network: applying maps, scan and dtypes exist once, for all. So `make test` runs a few
# of them for one variant of each structure (tanh, several slots, Sinkhorn).
NETWORK, STRUCTURES = ("init", "causal", "exact", "learns"), ("hc", "ghc", "mhc")
FAST = (*ALONE, *NETWORK, *EVERYWHERE)
# Checks of how a connection is used, which does not hang on its fields: cases with fields of their
# own leave them out.
HEAVY = ("ways", "half", "mesh", "once", "decode")


def cases():
  """Pairs of case and check, marked as slow or exhaustive where `make test` leaves them out.

  Slow are the maps of the cases with fields, networks of the other variants as they come, and the
  heavy checks of hyper-connections. Exhaustive is the rest of the table.
  """
  for case, (_, fields) in CASES.items():
    for check in CONFORMANCE:
      if fields and check.name in HEAVY:
        continue
      if "num_views" in fields and check.name not in (*ALONE, *EVERYWHERE):
        continue
      fast = check.name == "maps" if case not in STRUCTURES else check.name in FAST
      heavy = check.name in (*HEAVY, "second", "index") and case != "hc"
      marks = ()
      if heavy or (fields and check.name not in MAPS):
        marks = pytest.mark.exhaustive
      elif fields or not fast:
        marks = pytest.mark.slow
      yield pytest.param(case, check, id=f"{case}-{check.name}", marks=marks)


@functools.cache
def candidate(case: str) -> Candidate:
  """One object for each case, so that its compiled code is shared."""
  cls, fields = CASES[case]
  return Candidate(case, functools.partial(cls, **fields))


@pytest.mark.parametrize("case, check", list(cases()))
def test_conforms(case, check):
  try:
    check.run(candidate(case))
  except NotApplicable as reason:
    pytest.skip(str(reason))


def test_a_connection_that_states_no_facts_is_not_held_to_any():
  class Silent(HyperConnection):
    def facts(self, d_model):
      del d_model
      return Facts()

  with pytest.raises(NotApplicable, match="no facts"):
    starts_as_claimed(Candidate("silent", Silent))
