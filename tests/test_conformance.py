"""Tests that every variant in the table conforms; see `hc_jax.testing.conformance.suite`."""

import functools

import pytest

from hc_jax.connections import CONNECTIONS, Facts, HyperConnection
from hc_jax.testing.conformance.candidate import Candidate
from hc_jax.testing.conformance.network import starts_as_claimed
from hc_jax.testing.conformance.suite import CONFORMANCE, NotApplicable

# Fields that change the computation, tested in addition to each class with its defaults.
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


# Checks of one connection alone. `make test` runs them for one variant of each structure, and the
# check of the maps for every variant. Only these apply to several views, because no feed-forward
# takes them.
ALONE = ("shapes", "counts", "maps", "claims", "bf16", "grads", "vjp")
MAPS = ("counts", "maps", "grads")
# Checks that a connection works wherever JAX does, which depends only on its structure. `make test`
# runs them for one variant of each structure, except the one that compiles most.
EVERYWHERE = ("value", "whole", "empty", "x64", "jvp", "shard", "pmap", "explicit")
# Checks of a network. All variants share the code for applying maps, scan and dtypes, so that
# `make test` runs a few for one variant of each structure (tanh, several slots, Sinkhorn).
NETWORK, STRUCTURES = ("init", "causal", "exact", "learns"), ("hc", "ghc", "mhc")
FAST = (*ALONE, *NETWORK, *EVERYWHERE)
# Variants whose structure is that of another variant, with other formulas for the maps. Checks that
# depend on the structure are exhaustive for them.
ALIKE = ("frac", "altup", "attn_res_delta")
ALIKE += ("identity", "mhc_lite", "mhc_per_stream", "kromhc", "ohc")
STRUCTURAL = (*EVERYWHERE, "shapes", "causal", "exact")
# Checks of the use of a connection, which does not depend on its fields, so that cases with fields
# skip them.
HEAVY = ("ways", "half", "mesh", "once", "decode")


def cases():
  """Yields pairs of case and check; pairs that `make test` skips are marked slow or exhaustive.

  Slow pairs are the maps of cases with fields, networks of the other variants with defaults, and
  the heavy checks of hyper-connections. All other skipped pairs are exhaustive.
  """
  for case, (_, fields) in CASES.items():
    for check in CONFORMANCE:
      if fields and check.name in HEAVY:
        continue
      if "num_views" in fields and check.name not in (*ALONE, *EVERYWHERE):
        continue
      fast = check.name == "maps" if case not in STRUCTURES else check.name in FAST
      heavy = check.name in (*HEAVY, "second", "index") and case != "hc"
      heavy |= case in ALIKE and check.name in STRUCTURAL
      marks = ()
      if heavy or (fields and check.name not in MAPS):
        marks = pytest.mark.exhaustive
      elif fields or not fast:
        marks = pytest.mark.slow
      yield pytest.param(case, check, id=f"{case}-{check.name}", marks=marks)


@functools.cache
def candidate(case: str) -> Candidate:
  """Returns one object for each case, so that checks share its compiled code."""
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
